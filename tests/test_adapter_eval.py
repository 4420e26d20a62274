"""A LoRA adapter all the way: through `lerobot-eval`, and on a board, with PEFT on LeRobot's own pi0 as the judge."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from lerobot.configs import PreTrainedConfig
from lerobot.envs.configs import PushtEnv
from lerobot.envs.factory import make_env, make_env_pre_post_processors
from lerobot.policies.factory import make_pre_post_processors
from lerobot.scripts.lerobot_eval import rollout
from lerobot.utils.random_utils import set_seed
from peft import PeftModel

from lerobot_pi0_ttnn import PI0TTNNPolicy
from tests.checkpoints import edit_json, hub_cache, save_adapter
from tests.lerobot_eval import make_pusht_policy, run_eval, save_for_pusht
from tests.oracle import make_batch, make_noise
from tests.quality import assert_quality


@pytest.fixture(scope="module")
def hub():
    """The Hub's cache, which this process and LeRobot's share."""
    return Path(constants.HF_HUB_CACHE)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = save_for_pusht(make_pusht_policy(), tmp_path_factory.mktemp("base"))
    edit_json(folder / "config.json", type="pi0_ttnn", architecture="tiny", backend="torch")
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lora") / "adapter"
    return save_adapter(make_pusht_policy(), base, folder, r=4, lora_alpha=12)


@pytest.fixture(scope="module")
def peft_model(adapter):
    return PeftModel.from_pretrained(make_pusht_policy(), adapter).eval()


def test_lerobot_eval(adapter, base, peft_model, hub, tmp_path):
    """Adapter and base from the Hub, the base not where the adapter was trained; the judge plays the same episode."""
    moved = shutil.copytree(adapter, tmp_path / "moved")
    edit_json(moved / "adapter_config.json", base_model_name_or_path="/on/the/training/machine", revision="step-9")
    hub_cache(hub, "me/lora", moved)
    hub_cache(hub, "me/base", base)
    recording = run_eval(tmp_path, "--policy.path=me/lora", "--policy.base_model=me/base")
    assert [tick for _, tick, _ in recording.chunks] == [0, 4, 8]

    environment = PushtEnv(episode_length=12)
    config = PreTrainedConfig.from_pretrained(adapter)
    preprocess, postprocess = make_pre_post_processors(config, str(adapter))
    before, after = make_env_pre_post_processors(environment, config)
    set_seed(1000)  # lerobot-eval's default
    env = make_env(environment, n_envs=1, use_async_envs=False)["pusht"][0]
    want = rollout(env, peft_model, before, after, preprocess, postprocess, seeds=[1000])["action"][0]
    env.close()
    got = postprocess(torch.cat([action for _, _, action in recording.actions]))
    assert want.std() > 10  # pixels
    torch.testing.assert_close(got, want, rtol=0, atol=0.01)


def predict(policy):
    batch = make_batch(cameras=(), state_dim=2)
    batch["observation.image"] = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return policy.predict_action_chunk(batch, noise=make_noise())


@pytest.mark.parametrize("precision", ["accurate", "balanced"])
def test_on_a_board(board, adapter, base, peft_model, tmp_path, precision):
    """The base's converted weights are in the cache already, and must not be taken for the adapter's."""
    want = predict(PI0TTNNPolicy.from_pretrained(adapter))
    assert (want - predict(peft_model)).abs().max() <= 1e-5
    chunks = {}
    for folder in (base, adapter):
        policy = PI0TTNNPolicy.from_pretrained(
            folder, backend="ttnn", board=board.name, precision=precision, weight_cache_dir=tmp_path
        )
        chunks[folder] = predict(policy)
        policy.close()
    assert_quality(chunks[adapter], want, pcc=0.999, rel_rmse=0.05)
    with pytest.raises(AssertionError, match="relative RMSE"):
        assert_quality(chunks[base], want, pcc=0.5, rel_rmse=0.2)
