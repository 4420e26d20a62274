"""hf-libero without physics: what LeRobot's `lerobot.envs.libero` imports of it, so that LeRobot's own `LiberoEnv` runs in CI.

The raw observations, robosuite's, are made up here by hand, and said once more in LeRobot's words by `truth`.
`test_libero_simulator` compares their names, shapes and dtypes with those of the real simulator.
"""

import math
import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

PROMPTS = (
    "pick up the black bowl between the plate and the ramekin and place it on the plate",
    "open the middle drawer",
)
WAITED = 10
"""No-op steps after each reset, in which LeRobot lets the objects come to rest."""

ROTATIONS = (
    # Quaternion (x, y, z, w), and the same rotation as axis times angle.
    ((0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5)), (0.0, 0.0, math.pi / 2)),
    ((1.0, 0.0, 0.0, 0.0), (math.pi, 0.0, 0.0)),
    ((0.5, 0.5, 0.5, 0.5), (2 * math.pi / 3 / math.sqrt(3),) * 3),
    ((0.0, -math.sqrt(0.5), 0.0, math.sqrt(0.5)), (0.0, -math.pi / 2, 0.0)),
)


class Scene:
    """What the robot and its cameras see at a step after the reset, in the episode of a seed."""

    def __init__(self, seed: int, step: int, height: int, width: int) -> None:
        generator = np.random.default_rng([seed, step])
        # Coarse patches, which survive the model's resize; the wrist's darker, as by another exposure.
        agent, wrist = generator.integers(0, 256, (2, height // 8, width // 8, 3)).repeat(8, 1).repeat(8, 2)
        self.agent, self.wrist = agent.astype(np.uint8), (wrist // 2).astype(np.uint8)
        self.position = generator.uniform(-0.3, 1.2, 3)
        self.quaternion, self.axis_angle = (np.array(r) for r in ROTATIONS[(seed + step) % len(ROTATIONS)])
        finger = generator.uniform(0, 0.04)
        self.fingers = np.array([finger, -finger])

    def raw(self) -> dict[str, np.ndarray]:
        """As robosuite hands it out: pictures upside down and mirrored, as OpenGL's buffers lie and cameras are mounted."""
        return {
            "agentview_image": self.agent[::-1, ::-1],
            "robot0_eye_in_hand_image": self.wrist[::-1, ::-1],
            "robot0_eef_pos": self.position,
            "robot0_eef_quat": self.quaternion,
            "robot0_gripper_qpos": self.fingers,
            "robot0_gripper_qvel": np.full(2, 7.0),
            "robot0_joint_pos": np.full(7, 8.0),
            "robot0_joint_vel": np.full(7, 9.0),
        }

    def truth(self) -> dict[str, np.ndarray]:
        """As the data sets that pi0 was trained on have it (`HuggingFaceVLA/libero`)."""
        return {
            "observation.images.image": self.agent,
            "observation.images.image2": self.wrist,
            "observation.state": np.concatenate([self.position, self.axis_angle, self.fingers]),
        }


class OffScreenRenderEnv:
    """LIBERO's environment: shows the scenes of its seed whatever is done, and notes what was done."""

    opened: ClassVar[list["OffScreenRenderEnv"]] = []

    def __init__(
        self, bddl_file_name: str, camera_heights: int, camera_widths: int, control_freq: int, hard_reset: bool
    ) -> None:
        self.size, self.actions, self._seed = (camera_heights, camera_widths), [], 0
        self.robots = [SimpleNamespace(controller=SimpleNamespace(ee_ori_mat=np.eye(3), use_delta=None))]
        self.opened.append(self)

    def seed(self, seed: int | None) -> None:
        self._seed = seed or 0

    def reset(self) -> dict[str, np.ndarray]:
        self.actions.clear()
        return self._observe()

    def step(self, action) -> tuple[dict[str, np.ndarray], float, bool, dict[str, object]]:
        self.actions.append(np.array(action, dtype=np.float32))
        return self._observe(), 0.0, False, {}

    def check_success(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def _observe(self) -> dict[str, np.ndarray]:
        return Scene(self._seed, len(self.actions), *self.size).raw()


class Suite:
    """A suite of one task for each prompt."""

    tasks = tuple(
        SimpleNamespace(name=f"task_{number}", language=prompt, problem_folder="fake", bddl_file="fake.bddl")
        for number, prompt in enumerate(PROMPTS)
    )

    def get_task(self, number: int) -> SimpleNamespace:
        return self.tasks[number]


def install(patch: pytest.MonkeyPatch) -> None:
    """Lets `lerobot.envs.libero` be imported anew, with this in place of hf-libero."""
    names = ("libero", "libero.libero", "libero.libero.benchmark", "libero.libero.envs")
    modules = {name: ModuleType(name) for name in names}
    modules["libero.libero.benchmark"].Benchmark = Suite
    modules["libero.libero.benchmark"].get_benchmark_dict = lambda: {"libero_spatial": Suite}
    modules["libero.libero"].benchmark = modules["libero.libero.benchmark"]
    modules["libero.libero"].get_libero_path = lambda name: f"/nonexistent/{name}"
    modules["libero.libero.envs"].OffScreenRenderEnv = OffScreenRenderEnv
    for name, module in modules.items():
        patch.setitem(sys.modules, name, module)
    # Set first, so that undoing takes away again what is imported in between.
    patch.setitem(sys.modules, "lerobot.envs.libero", ModuleType("lerobot.envs.libero"))
    del sys.modules["lerobot.envs.libero"]
    patch.setattr(OffScreenRenderEnv, "opened", [])
