"""Our policy server without a network: its methods called as gRPC would, by a client that is told what it is told."""

import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot.async_inference.configs import PolicyServerConfig
from lerobot.async_inference.helpers import RemotePolicyConfig, TimedAction, TimedObservation
from lerobot.transport import services_pb2
from lerobot.transport.services_pb2 import Empty, PolicySetup
from lerobot.transport.utils import send_bytes_in_chunks
from lerobot.utils.constants import OBS_STR
from lerobot.utils.feature_utils import hw_to_dataset_features

from tests.robots import CAMERAS, NAMES


class ToldError(Exception):
    """What a client's log would have."""


class Connection:
    """gRPC's context."""

    def peer(self) -> str:
        return "test"

    def abort(self, code: Any, details: str) -> None:
        raise ToldError(details)


class Client:
    """What LeRobot's `robot_client` does, for a robot that stands still unless told otherwise.

    Args:
        server: ours.
        checkpoint: the folder to ask for.
        names: the robot's joints, in its order.
        cameras: the robot's, by name, with the shape of their frames.
        policy_type: what it says that the checkpoint is of.
        asked: more for LeRobot's `RemotePolicyConfig`.
    """

    def __init__(
        self,
        server: Any,
        checkpoint: Path,
        names: Sequence[str] = NAMES,
        cameras: Mapping[str, tuple[int, ...]] | None = None,
        *,
        policy_type: str = "pi0_ttnn",
        **asked: Any,
    ) -> None:
        self.server, self.checkpoint, self.names = server, checkpoint, names
        self.told: list[str] = []
        self.cameras = dict.fromkeys(CAMERAS, (48, 64, 3)) if cameras is None else cameras
        hardware = {**dict.fromkeys(names, float), **self.cameras}
        self.features = hw_to_dataset_features(hardware, OBS_STR, use_video=False)
        asked = {"actions_per_chunk": 50, **asked}
        setup = RemotePolicyConfig(policy_type, str(checkpoint), self.features, **asked)
        server.Ready(Empty(), Connection())
        server.SendPolicyInstructions(PolicySetup(data=pickle.dumps(setup)), Connection())

    def observation(self, step: int = 0, *, must_go: bool = False, **values: Any) -> TimedObservation:
        """One as the server gets it: through pickle. Joints are 0 and frames gray where `values` says nothing."""
        raw = {
            **dict.fromkeys(self.names, 0.0),
            **{name: np.full(shape, 128, np.uint8) for name, shape in self.cameras.items()},
            "task": "push",
            **values,
        }
        return pickle.loads(pickle.dumps(TimedObservation(float(step), step, raw, must_go)))

    def actions(self, step: int = 0, **values: Any) -> list[TimedAction]:
        """The chunk for an observation."""
        return self.server._predict_action_chunk(self.observation(step, **values))

    def is_sent_a_chunk(self, step: int, **values: Any) -> bool:
        """Whether it gets actions for this observation when it asks for them."""
        message = pickle.dumps(self.observation(step, **values))
        self.server.SendObservations(send_bytes_in_chunks(message, services_pb2.Observation), Connection())
        while True:
            try:
                return isinstance(self.server.GetActions(Empty(), Connection()), services_pb2.Actions)
            except ToldError as error:  # a warning is logged, and the client asks again
                if not str(error).startswith("warning"):
                    raise
                self.told.append(str(error))


@contextmanager
def open_servicer(folder: Path) -> Iterator[Any]:
    """Ours, on the torch backend. LeRobot's module takes over logging and opens a log in the working folder; not here."""
    root, patch = logging.getLogger(), pytest.MonkeyPatch()
    handlers, level = list(root.handlers), root.level
    patch.chdir(folder)
    try:
        from lerobot_pi0_ttnn.cli.serve.policy_server import PI0TTNNPolicyServer
    finally:
        patch.undo()
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:], root.level = handlers, level
    config = PolicyServerConfig(obs_queue_timeout=0.05)
    servicer = PI0TTNNPolicyServer(config, ["--architecture=tiny", "--backend=torch", "--warm_up=false"])
    yield servicer
    servicer.close()
