"""A robot without hardware, found as LeRobot finds third parties' robots: `PYTHONPATH=tests/fake_robot lerobot-rollout ...`.

Its arm is at once where it is told to go, its cameras see a pattern that moves with time, and all that happens to it is
written to a file of JSON lines.
"""

import json
import math
import signal
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from lerobot.cameras import CameraConfig
from lerobot.robots import Robot, RobotConfig


@RobotConfig.register_subclass("fake")
@dataclass(kw_only=True)
class FakeRobotConfig(RobotConfig):
    diary: Path
    joints: int = 6
    cameras: dict[str, CameraConfig] = field(default_factory=dict)
    """Only their names and sizes count; nothing is opened."""
    stop_after: int | None = None
    """After that many actions somebody presses Ctrl-C."""
    encoder_breaks_after: int | None = None
    """After that many observations the first joint's position is NaN."""


class FakeRobot(Robot):
    config_class = FakeRobotConfig
    name = "fake"

    def __init__(self, config: FakeRobotConfig) -> None:
        super().__init__(config)
        self.config = config
        self._connected = False
        self._position = {f"joint{number}.pos": float(number) for number in range(config.joints)}
        self._observed = self._moved = 0

    @property
    def observation_features(self) -> dict[str, type | tuple]:
        images = {name: (camera.height, camera.width, 3) for name, camera in self.config.cameras.items()}
        return {**self.action_features, **images}

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(self._position, float)

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def connect(self, calibrate: bool = True) -> None:
        self._connected = True
        self._write("connected")

    def disconnect(self) -> None:
        self._connected = False
        self._write("disconnected")

    def get_observation(self) -> dict[str, float | np.ndarray]:
        images = {name: self._image(number) for number, name in enumerate(self.config.cameras)}
        position = dict(self._position)
        if self.config.encoder_breaks_after is not None and self._observed >= self.config.encoder_breaks_after:
            position["joint0.pos"] = math.nan
        self._observed += 1
        return {**position, **images}

    def _image(self, number: int) -> np.ndarray:
        camera = list(self.config.cameras.values())[number]
        rows, columns, colours = np.ogrid[: camera.height, : camera.width, :3]
        return ((rows + 2 * columns + 40 * colours + 80 * number + self._observed) % 256).astype(np.uint8)

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        self._position = {joint: action[joint] for joint in self._position}
        self._write("moved", list(self._position.values()))
        self._moved += 1
        if self._moved == self.config.stop_after:
            if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell runs in the background
                signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.raise_signal(signal.SIGINT)
        return action

    def _write(self, event: str, position: list[float] | None = None) -> None:
        with self.config.diary.open("a") as file:
            file.write(json.dumps({"event": event, "position": position}) + "\n")
