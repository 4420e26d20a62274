"""LIBERO itself, where hf-libero and its scenes are installed: docs/simulation.md says how. Minutes; CI has neither."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import yaml
from lerobot.envs.configs import LiberoEnv
from lerobot.envs.factory import make_env, make_env_pre_post_processors
from lerobot.envs.utils import preprocess_observation

from tests import fake_libero
from tests.libero import load_for, play, save_libero_checkpoint
from tests.quality import assert_quality

package = importlib.util.find_spec("libero")
ROOT = Path(package.submodule_search_locations[0]) / "libero" if package else Path("/nonexistent")
pytestmark = pytest.mark.skipif(
    not (ROOT / "assets").is_dir(), reason="hf-libero or its scenes are not installed: docs/simulation.md"
)
SIZE = (128, 160)
TICKS = 12


@pytest.fixture(autouse=True)
def _libero(monkeypatch, tmp_path):
    """hf-libero asks questions at its first import, unless it finds their answers."""
    folders = {"benchmark_root": ROOT, "bddl_files": ROOT / "bddl_files", "init_states": ROOT / "init_files"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({name: str(folder) for name, folder in folders.items()}))
    monkeypatch.setenv("LIBERO_CONFIG_PATH", str(tmp_path))
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # robosuite cannot read an empty one


def environment(**fields) -> LiberoEnv:
    size = {"observation_height": SIZE[0], "observation_width": SIZE[1]}
    return LiberoEnv(task="libero_spatial", task_ids=[0], episode_length=TICKS, **size, **fields)


def layout(observation: dict[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    return {key: (value.shape, value.dtype) for key, value in observation.items()}


def test_the_stand_in_hands_out_the_same():
    config = environment()
    env = make_env(config, n_envs=1, use_async_envs=False)["libero_spatial"][0]
    observation, _ = env.reset(seed=[1000])
    simulator = env.envs[0].unwrapped._env
    raw = simulator.env._get_observations()
    orientation = simulator.robots[0].controller.ee_ori_mat
    upright = env.call("render")[0]
    prompt = env.call("task_description")[0]
    env.close()
    made_up = fake_libero.Scene(1000, 0, *SIZE).raw()
    assert layout(made_up) == layout({key: raw[key] for key in made_up})
    assert orientation.shape == (3, 3)
    assert prompt == fake_libero.PROMPTS[0]
    processed = make_env_pre_post_processors(config, None)[0](preprocess_observation(observation))
    picture = processed["observation.images.image"][0].permute(1, 2, 0).mul(255).round().byte().numpy()
    assert np.array_equal(picture, upright)


def test_an_episode(board, tmp_path):
    """LeRobot's policy and ours play the same one, each seeing what its own actions lead to."""
    judge = save_libero_checkpoint(tmp_path / "checkpoint", kind="pi0_ttnn")
    want = play(environment(), judge, tmp_path / "checkpoint", [1000])
    assert want.shape == (1, TICKS, 7)
    for flags, limit in [
        (["--backend=torch"], 1e-4),
        ([f"--board={board.name}", "--precision=accurate", "--cache_weights=false"], 0.02),
    ]:
        policy = load_for(environment(), tmp_path / "checkpoint", *flags)
        got = play(environment(), policy, tmp_path / "checkpoint", [1000])
        policy.close()
        assert_quality(got, want, pcc=0.999, rel_rmse=limit)
