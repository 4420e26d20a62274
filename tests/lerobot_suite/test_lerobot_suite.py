"""LeRobot's own tests, pointed at this policy: `pytest tests/lerobot_suite --lerobot-tests=CHECKOUT_OF_v0.6.1`.

Neither LeRobot's wheel nor its source distribution carries these files, so that they are judged by where a checkout is.
"""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature

from lerobot_pi0_ttnn import PI0TTNNConfig
from lerobot_pi0_ttnn.demo.checkpoint import write_random_weights
from lerobot_pi0_ttnn.demo.tokenizer import make_tokenizer
from lerobot_pi0_ttnn.model.config import TINY
from lerobot_pi0_ttnn.model.tensors import LANGUAGE_MODEL, expected_shapes
from lerobot_pi0_ttnn.processor_pi0_ttnn import make_pi0_ttnn_pre_post_processors
from tests.checkpoints import hub_cache

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""Of pi0_base."""

TRAINING = "it trains, and this policy is for inference"
DEBUG = "rtc_config.debug has no effect on this policy"
NETWORK = "it downloads a data set"
CUDA = "it moves tensors to CUDA"

SUITE = {
    "policies/pi0_pi05/test_pi0.py": {"test_policy_instantiation": TRAINING},
    "policies/pi0_pi05/test_pi0_rtc.py": {},
    "policies/pi0_pi05/test_pi0_original_vs_lerobot.py": {
        "test_pi0_forward_matches_openpi": TRAINING,
        "test_pi0_gradient_checkpointing_forward_matches_openpi": TRAINING,
        "test_pi0_compile_forward_matches_openpi": TRAINING,
        "test_pi0_compile_gradient_checkpointing_forward_matches_openpi": TRAINING,
    },
    "processor/test_pi0_processor.py": {},
    "policies/test_policies.py": {
        "test_policy": NETWORK,
        "test_act_backbone_lr": NETWORK,
        "test_backward_compatibility": NETWORK,
        "test_save_pretrained_with_state_dict": "it is written for ACT, whose backbone it downloads",
        "test_vqbet_discretize_keeps_buffers_on_device": NETWORK,
    },
    "policies/test_factory_peft_revision.py": {},
    "policies/rtc/test_action_interpolator.py": {},
    "policies/rtc/test_action_queue.py": {"test_queue_handles_gpu_tensors": CUDA},
    "policies/rtc/test_configuration_rtc.py": {},
    "policies/rtc/test_debug_tracker.py": {"test_tracker_handles_gpu_tensors": CUDA},
    "policies/rtc/test_latency_tracker.py": {},
    "policies/rtc/test_modeling_rtc.py": {
        "test_denoise_step_tracks_debug_info": DEBUG,
        "test_denoise_step_full_workflow": DEBUG,
        "test_denoise_step_guidance_weight_at_time_zero": "no step of the schedule is at time 0",
        "test_denoise_step_with_cuda_tensors": CUDA,
    },
    "policies/rtc/test_rtc_relative_actions.py": {},
    "configs/test_plugin_loading.py": {},
    "test_rollout.py": {},
    "test_yaml_policy_path.py": {},
    "async_inference/test_policy_server.py": {},
    "async_inference/test_helpers.py": {},
}
"""Each file, and which of its tests say nothing about this policy, with the reason."""


@pytest.fixture(scope="module")
def checkout(request):
    path = request.config.getoption("--lerobot-tests")
    if path is None:
        pytest.skip("needs a checkout of LeRobot: --lerobot-tests=PATH")
    return Path(path).resolve()


@pytest.fixture(scope="module")
def hub(tmp_path_factory, request):
    """A home of Hugging Face's with what the tests fetch: PaliGemma's tokenizer and pi0_base, both stand-ins."""
    home, base, tokenizer = (tmp_path_factory.mktemp(name) for name in ("home", "pi0_base", "tokenizer"))
    make_tokenizer(tokenizer)
    (tokenizer / "config.json").write_text(json.dumps({"model_type": "paligemma"}))
    hub_cache(home / "hub", PI0TTNNConfig.tokenizer_name, tokenizer)
    shapes = expected_shapes(TINY)
    embedding = shapes.pop(f"{LANGUAGE_MODEL}.embed_tokens.weight")  # pi0_base has it as lm_head only
    shapes["paligemma_with_expert.paligemma.lm_head.weight"] = embedding
    shapes["paligemma_with_expert.gemma_expert.lm_head.weight"] = (TINY.vocab_size, TINY.expert.width)
    write_random_weights(base / "model.safetensors", shapes, seed=0, dtype=torch.float32)
    board = request.config.getoption("--lerobot-tests-backend")
    backend = {"backend": "torch"} if board == "torch" else {"board": board}
    config = PI0TTNNConfig(
        architecture="tiny",
        tokenizer_name=str(tokenizer),
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (TINY.state_dim,)),
            **{f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, (3, 224, 224)) for camera in CAMERAS},
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (TINY.action_dim,))},
        **backend,
    )
    config.save_pretrained(base)
    for pipeline in make_pi0_ttnn_pre_post_processors(config):
        pipeline.save_pretrained(base)
    hub_cache(home / "hub", "lerobot/pi0_base", base)
    return home


@pytest.fixture(scope="module")
def results(checkout, hub, tmp_path_factory, request):
    """Runs all of them in one process, LeRobot's: number of tests and what went wrong or was skipped, by file."""
    report = tmp_path_factory.mktemp("report") / "report.xml"
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "GITHUB_ACTIONS")}
    environment |= {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}"}
    board = request.config.getoption("--lerobot-tests-backend")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "pointed_at_ours",
        f"--pi0-backend={board}",
        "-p",
        "no:cacheprovider",
    ]
    command += [f"tests/{file}" for file in SUITE]
    command += [f"--deselect=tests/{file}::{test}" for file, left_out in SUITE.items() for test in left_out]
    command += [f"--junitxml={report}", "-o", "junit_family=xunit1", "-q"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout[-4000:] + done.stderr[-4000:]
    counted = {file: (0, []) for file in SUITE}
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.get("file").removeprefix("tests/")
        number, troubles = counted[file]
        counted[file] = number + 1, troubles + [f"{case.get('name')}: {child.text}" for child in case]
    return counted


@pytest.mark.parametrize("file", SUITE)
def test_lerobots_own(file, results):
    number, troubles = results[file]
    assert not troubles, "\n\n".join(troubles)
    assert number > 0
