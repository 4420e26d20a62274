"""One MetaWorld task in LeRobot's own environment, drawn only when a picture is asked for, and with its scripted expert.

Two of LeRobot's environments in one process draw each other's meshes, since gymnasium's viewer does not make its GL context
current. Here it is made so before each picture.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")  # before mujoco is imported

import mujoco
import numpy as np
from lerobot.envs.metaworld import MetaworldEnv

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
OBJECT = slice(4, 7)
"""Of MetaWorld's observation: where the object to be moved is, metres. LeRobot's state is the four values before it."""


class Simulation:
    """LeRobot's `MetaworldEnv` of one task, which can be branched.

    Args:
        task: MetaWorld's name.
        stock_drawing: whether shadows and edges are drawn as LeRobot's environment has them, two to three times as slow; at
            112 x 112 pixels the mean difference is 0.5 of 255.
    """

    def __init__(self, task: str, *, stock_drawing: bool = False) -> None:
        self.lerobot = MetaworldEnv(task, obs_type="pixels_agent_pos")
        self.lerobot._ensure_env()
        self._env = self.lerobot._env
        # The scripted expert is to see the goal; the state of four values that the policy gets is the same either way.
        self._env._partially_observable = False
        self._env.__dict__.pop("sawyer_observation_space", None)
        if not stock_drawing:
            self._env.model.vis.quality.shadowsize = 1024
            self._env.model.vis.quality.offsamples = 0
        self.prompt: str = self.lerobot.task_description
        self.observation = np.empty(0)

    def reset(self, seed: int) -> None:
        """Starts the episode that LeRobot's environment starts for this seed."""
        self._env.seed(seed)
        self.observation, _ = self._env.reset(seed=seed)

    def step(self, action: np.ndarray[Any, Any]) -> bool:
        """Executes an action (4,), clipped to [-1, 1] by the environment; returns whether the task is done."""
        self.observation, _, _, _, info = self._env.step(action)
        return bool(info["success"])

    def look(self) -> dict[str, np.ndarray[Any, Any]]:
        """Returns what LeRobot's environment hands out now: `pixels` (480, 480, 3) uint8 and `agent_pos` (4,)."""
        viewer = self._env.mujoco_renderer.viewer
        if viewer is not None:  # else it is made now, which makes its GL context current
            viewer.make_context_current()
        observed: dict[str, np.ndarray[Any, Any]] = self.lerobot._format_raw_obs(self.observation)
        return observed

    def expert_action(self) -> np.ndarray[Any, Any]:
        """Returns the scripted expert's action (4,) in [-1, 1]."""
        action: np.ndarray[Any, Any] = np.clip(self.lerobot.expert_policy.get_action(self.observation), -1.0, 1.0)
        return action.astype(np.float32)

    @contextmanager
    def branch(self) -> Iterator[None]:
        """What is simulated within is undone afterwards."""
        env = self._env
        state = np.empty(mujoco.mj_stateSize(env.model, STATE))
        mujoco.mj_getState(env.model, env.data, state, STATE)
        kept = self.observation, env._prev_obs.copy(), env.curr_path_length, np.copy(env._last_stable_obs)
        try:
            yield
        finally:
            mujoco.mj_setState(env.model, env.data, state, STATE)
            mujoco.mj_forward(env.model, env.data)
            self.observation, env._prev_obs, env.curr_path_length, env._last_stable_obs = kept
            for site in env._target_site_config:
                env._set_pos_site(*site)

    def project(self, points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Returns where points (..., 3), metres, are in the picture: (..., 2), x and y as fractions of its side."""
        model, data = self._env.model, self._env.data
        camera = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, self.lerobot.camera_name)
        rotation = data.cam_xmat[camera].reshape(3, 3)
        seen = (points - data.cam_xpos[camera]) @ rotation
        focal = 0.5 / np.tan(np.radians(model.cam_fovy[camera]) / 2)
        x, y = focal * seen[..., 0] / -seen[..., 2], focal * seen[..., 1] / -seen[..., 2]
        return np.stack([0.5 - x, 0.5 + y], -1)  # LeRobot flips both axes

    def close(self) -> None:
        """Frees what GL holds."""
        viewer = self._env.mujoco_renderer.viewer
        if viewer is not None:
            viewer.make_context_current()
            viewer.con.free()  # here: freed in another scene's context, it would be that scene's buffers
        self.lerobot.close()
