"""Whether a backend computes what the checkpoint means: limits, the check of a first chunk, a sealed report."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .configuration_pi0_ttnn import PI0TTNNConfig
from .deviation import deviation
from .model.config import PI0ModelConfig
from .model.observation import Observation
from .model.rtc import Guidance
from .reference import PI0ModelTorch

if TYPE_CHECKING:
    from .device.board import Board

logger = logging.getLogger(__name__)

CHUNK_LIMITS = {"accurate": 0.012, "balanced": 0.03, "fast": 0.06, "bfloat16": 0.03}
"""Of a whole chunk, relative RMSE against the float32 twin, by precision of the ttnn backend or dtype of the torch backend:
those of docs/parity.md, for models of `TESTED_DEPTH` layers; `fast`, whose kernels need 0.029 of it, twice that."""

UNLIKE = 3
"""Times the limit of a whole chunk, for observations that a checkpoint was not trained on: it may be less exact there. (The
learned pi0, `balanced`: 0.012 on what its robot sees, 0.030 without its camera; the learned pi0.5: 0.048 on noise.)"""

TESTED_DEPTH = 3

SEAL = "sha256"


def grown(limit: float, depth: int) -> float:
    """Returns a limit for what has passed through more layers than it was measured on: unbiased errors add up by their squares.

    Nobody has measured that for a deep model, so it is an extrapolation.
    """
    return limit * math.sqrt(max(1.0, depth / TESTED_DEPTH))


def chunk_limit(precision: str, config: PI0ModelConfig, *, made_up: bool = False) -> float:
    """Returns the greatest relative RMSE of a whole chunk.

    Args:
        precision: a key of `CHUNK_LIMITS`.
        config: sizes of the model.
        made_up: whether the observation is one that the checkpoint was not trained on.
    """
    return grown(CHUNK_LIMITS[precision], config.expert.depth) * (UNLIKE if made_up else 1)


class FirstChunkCheck:
    """Compares the first chunk of a session with the float32 twin on the CPU, before it is handed out.

    Until one has passed, each chunk is compared. The twin is built for that, from the checkpoint, and freed.

    Args:
        config: the policy's.
        weights: of the checkpoint.
        board: what the policy computes on; None for the torch backend.
    """

    def __init__(self, config: PI0TTNNConfig, weights: Mapping[str, Tensor], board: "Board | None") -> None:
        self._config = config
        self._weights = weights
        self._where = f"{board.name} ({board.kind}), {config.precision}" if board else f"the CPU, {config.dtype}"
        self._limit = chunk_limit(config.precision if board else "bfloat16", config.model_config())
        self.is_due = board is not None or config.dtype != "float32"
        if not self.is_due:
            logger.warning(
                "verify_first: the torch backend in float32 is what others are compared with: nothing to do."
            )

    def noise_shape(self, observation: Observation) -> tuple[int, int, int]:
        """Returns (B, horizon, action_dim): drawn before the chunk, the twin has it, too."""
        return observation.rows, self._config.chunk_size, self._config.max_action_dim

    def __call__(
        self,
        actions: Tensor,
        observation: Observation,
        *,
        noise: Tensor,
        num_steps: int | None,
        guidance: Guidance[Tensor] | None,
    ) -> None:
        """Logs one line: relative RMSE, limit, times.

        Args:
            actions: (B, horizon, action_dim) float32, of the backend.
            observation: that they answer.
            noise: (B, horizon, action_dim) float32, of the chunk.
            num_steps: Euler steps; those of the config by default.
            guidance: of the chunk.

        Raises:
            RuntimeError: the chunk is over the limit.
        """
        start = time.perf_counter()
        twin = PI0ModelTorch(self._config.model_config(), self._weights)
        built = time.perf_counter()
        want = twin.sample_actions(observation, noise=noise, num_steps=num_steps, guidance=guidance)
        computed = time.perf_counter()
        del twin
        width = self._config.output_features["action"].shape[0]
        measure = deviation(actions[..., :width], want[..., :width])
        said = (
            f"verify_first: the first chunk on {self._where}: relative RMSE {measure.rel_rmse:.4f} of at most "
            f"{self._limit:.4f} against the float32 twin on the CPU ({built - start:.1f} s to build it, "
            f"{computed - built:.1f} s to compute)"
        )
        if not measure.within(self._limit):
            raise RuntimeError(
                f"{said}: too far off, so that no action is handed out. Let the arm hold; `lerobot-pi0-ttnn verify` finds "
                "the operation, --policy.programs=stock goes without this package's own, --policy.backend=torch without "
                "a card."
            )
        # A warning, since LeRobot's programs show no less of a library, and the line is asked for.
        logger.warning("%s", said)
        self.is_due = False


def sealed(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a report with the digest of its content: whoever edits a number afterwards breaks it. It names no author.

    Args:
        report: JSON values.
    """
    return {**report, SEAL: _digest(report)}


def check_seal(report: Mapping[str, Any]) -> None:
    """Raises ValueError where a report's content is not what it was sealed with."""
    content = {name: value for name, value in report.items() if name != SEAL}
    expected, got = report.get(SEAL), _digest(content)
    if expected != got:
        raise ValueError(
            f"{SEAL}: expected {got} for this content, got {expected}: the report was edited, or is none; make it anew with "
            "`lerobot-pi0-ttnn verify CKPT --report DIR`"
        )


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
