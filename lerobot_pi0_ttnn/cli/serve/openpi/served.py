"""The policy that is served, with the checkpoint's own processors about it: raw observations in, the robot's actions out."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot.policies import make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline

from ....checkpoint.files import CheckpointSource
from ....checkpoint.processors import SavedProcessors, read_processors
from ....config_loading import load_config
from ....configuration_pi0_ttnn import PI0TTNNConfig
from ....modeling_pi0_ttnn import PI0TTNNPolicy
from ....policy_loading import load_policy
from ....review import admit

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a checkpoint before its weights are read."""

    source: CheckpointSource
    config: PI0TTNNConfig
    processors: SavedProcessors
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Chunk:
    """What becomes of one observation.

    Attributes:
        actions: (horizon, A) float32, in the robot's units.
        policy_ms: how long the policy took, without the processors and without waiting for another client.
        warnings: what the policy was warned of in the observation, each once.
    """

    actions: np.ndarray[Any, np.dtype[np.float32]]
    policy_ms: float
    warnings: list[str]


def read_checkpoint(path_or_repo_id: str, overrides: Sequence[str]) -> Checkpoint:
    """Returns what is known of a checkpoint that can be served.

    Args:
        path_or_repo_id: a folder, or `owner/name` on the Hub.
        overrides: `--field=value` for each field of the config that is to differ from the checkpoint's.

    Raises:
        ValueError: it cannot run, or has no processors.
        FileNotFoundError: there is no such checkpoint.
    """
    source = CheckpointSource(path_or_repo_id)
    config = load_config(source, overrides)
    warnings = admit(config, source)
    processors = read_processors(source)
    if processors.preprocessor is None or processors.postprocessor is None:
        raise ValueError(f"{source}: without processors it cannot be served.")
    return Checkpoint(source, config, processors, tuple(warnings))


class ServedPolicy:
    """A policy that one thread at a time asks for a chunk; there is nothing that one client's chunk leaves for the next.

    Args:
        policy: loaded.
        preprocess: the checkpoint's.
        postprocess: the checkpoint's.
        horizon: how many actions of a chunk are given; all of them by default.
    """

    def __init__(
        self,
        policy: PI0TTNNPolicy,
        preprocess: PolicyProcessorPipeline[Any, Any],
        postprocess: PolicyProcessorPipeline[Any, Any],
        horizon: int | None = None,
    ) -> None:
        self.policy = policy
        self.horizon = policy.config.chunk_size if horizon is None else horizon
        self._preprocess, self._postprocess = preprocess, postprocess
        # Round the processors, too: actions relative to the state are made absolute with the state that was processed last.
        self._lock = threading.Lock()

    @classmethod
    def load(cls, checkpoint: Checkpoint, horizon: int | None = None) -> "ServedPolicy":
        """Returns the policy of a checkpoint with its processors; see `policy_loading.load_policy` for what may be raised."""
        device = {"device_processor": {"device": checkpoint.config.device}}
        preprocess, postprocess = make_pre_post_processors(
            checkpoint.config,
            pretrained_path=str(checkpoint.source.path_or_repo_id),
            preprocessor_overrides=device,
            postprocessor_overrides=device,
        )
        policy = load_policy(checkpoint.source.path_or_repo_id, config=checkpoint.config)
        return cls(policy, preprocess, postprocess, horizon)

    def infer(self, batch: dict[str, Any]) -> Chunk:
        """Returns the chunk for an observation.

        Args:
            batch: of one row, what the preprocessor takes; see `Layout.read`.

        Raises:
            KeyError, TypeError, ValueError: the observation is not what it should be.
            BoardError, FloatingPointError: the policy failed.
        """
        with self._lock:
            processed = self._preprocess(batch)
            begun = time.perf_counter()
            chunk = self.policy.predict_action_chunk(processed)
            policy_ms = (time.perf_counter() - begun) * 1000
            actions = self._postprocess(chunk)[0, : self.horizon]
            return Chunk(np.ascontiguousarray(actions.numpy(), np.float32), policy_ms, self.policy.take_warnings())

    def reset(self) -> None:
        """Forgets the episode, for whoever records it: a chunk depends on its observation alone."""
        with self._lock:
            self.policy.reset()

    def close(self) -> None:
        """Gives the board back, once no thread is in `infer`."""
        with self._lock:
            self.policy.close()
