"""openpi's clients, for the tests of `serve --protocol openpi`: what they send, and what they are sent to."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from websockets.sync.client import connect

from lerobot_pi0_ttnn.cli.serve.address import bind
from lerobot_pi0_ttnn.cli.serve.openpi.embodiments import NAMED, ROBOARENA, own_keys
from lerobot_pi0_ttnn.cli.serve.openpi.layout import Layout, match_layout
from lerobot_pi0_ttnn.cli.serve.openpi.served import Checkpoint, ServedPolicy
from lerobot_pi0_ttnn.cli.serve.openpi.server import OpenPIServer
from lerobot_pi0_ttnn.cli.serve.openpi.wire import pack, unpack
from tests.checkpoints import save_lerobot_checkpoint
from tests.oracle import make_lerobot_policy

ON_THE_CPU = ("--architecture=tiny", "--backend=torch", "--warm_up=false")
TASK = "do something"
STATE = "observation.state"


class Client:
    """openpi's `WebsocketClientPolicy` (`openpi-client` 0.1.2), in ours; replies that are text are returned."""

    def __init__(self, port: int, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self.connection = connect(f"ws://localhost:{port}", compression=None, max_size=None, additional_headers=headers)
        self.metadata = unpack(self.connection.recv())

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, data: bytes | str) -> dict | str:
        self.connection.send(data)
        reply = self.connection.recv()
        return reply if isinstance(reply, str) else unpack(reply)

    def infer(self, observation: object) -> dict | str:
        return self.send(pack(observation))


class Echo:
    """A policy whose actions are the state, and that notes how many threads are in it, and what else is asked of it."""

    name = "echo"

    def __init__(self) -> None:
        self.config = SimpleNamespace(chunk_size=3)
        self.inside = self.most = self.resets = 0
        self.is_closed = False

    def served(self) -> ServedPolicy:
        """Without processors."""
        return ServedPolicy(self, lambda batch: batch, lambda chunk: chunk)  # type: ignore[arg-type]

    def predict_action_chunk(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.02)
        self.inside -= 1
        return batch[STATE][:, None].expand(-1, 3, -1)

    def take_warnings(self) -> list[str]:
        return []

    def reset(self) -> None:
        self.resets += 1

    def close(self) -> None:
        self.is_closed = True


@contextmanager
def serving(
    served: ServedPolicy, layout: Layout, metadata: Mapping[str, object] | None = None, **options: Any
) -> Iterator[int]:
    """The port of a server in this process."""
    server = OpenPIServer(served, layout, dict(metadata or {}), **options)
    with bind("localhost", 0) as listening:
        listening.listen()
        server.start(listening)
        try:
            yield listening.getsockname()[1]
        finally:
            server.stop()


def picture(seed: int, *, channels_first: bool = False) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(256, size=(48, 64, 3), dtype=np.uint8)
    return drawn.transpose(2, 0, 1) if channels_first else drawn


# name: (cameras and widths of the checkpoint, what the client sends, which of that is which of the checkpoint's).
ROBOTS = {
    "droid": (
        (("exterior_1_left", "wrist_left"), 8, 8),
        {
            "observation/exterior_image_1_left": picture(0),
            "observation/wrist_image_left": picture(1),
            "observation/joint_position": np.linspace(-1, 1, 8)[:7],
            "observation/gripper_position": np.ones(1),
            "prompt": TASK,
        },
        {"exterior_1_left": 0, "wrist_left": 1},
    ),
    "aloha": (
        (("cam_high", "cam_left_wrist", "cam_right_wrist"), 14, 14),
        {
            "state": np.linspace(-1, 1, 14),
            "images": {
                "cam_high": picture(0, channels_first=True),
                "cam_low": picture(9, channels_first=True),
                "cam_right_wrist": picture(2, channels_first=True),
            },
            "prompt": TASK,
        },
        {"cam_high": 0, "cam_right_wrist": 2},
    ),
    "libero": (
        (("image", "image2"), 8, 7),
        {
            "observation/image": picture(0),
            "observation/wrist_image": picture(1),
            "observation/state": np.linspace(-1, 1, 8),
            "prompt": TASK,
        },
        {"image": 0, "image2": 1},
    ),
    "lerobot": (
        (("image", "image2"), 8, 7),
        {
            "observation.images.image": picture(0),
            "observation.images.image2": picture(1, channels_first=True),
            STATE: np.linspace(-1, 1, 8),
            "task": TASK,
        },
        {"image": 0, "image2": 1},
    ),
}


def saved(folder: Callable[[str], Path]) -> Callable[[str], tuple[Path, PI0Policy]]:
    """By the name of a robot: its checkpoint's folder, and LeRobot's policy that was saved there.

    Args:
        folder: makes one with a name.
    """

    @cache
    def of_sizes(cameras: Sequence[str], state_dim: int, action_dim: int) -> tuple[Path, PI0Policy]:
        policy = make_lerobot_policy(cameras, state_dim, action_dim, tokenizer_max_length=48)
        stats = {
            STATE: {"mean": torch.linspace(-1, 1, state_dim), "std": torch.linspace(0.5, 2, state_dim)},
            "action": {"mean": torch.linspace(-2, 2, action_dim), "std": torch.linspace(1, 3, action_dim)},
        }
        return save_lerobot_checkpoint(policy, folder("openpi"), stats), policy

    return lambda robot: of_sizes(*ROBOTS[robot][0])


def layout_of(checkpoint: Checkpoint, robot: str) -> Layout:
    named = NAMED | {"lerobot": own_keys(checkpoint.config, []), "roboarena": ROBOARENA}
    return match_layout(named[robot], checkpoint.config, checkpoint.processors, "CKPT")
