"""A pytest plug-in for LeRobot's own checkout: there, `pi0` is this package's policy, tiny and with seeded weights.

`test_lerobot_suite.py` loads it. Nothing here changes what a test asserts.
"""

import functools
import importlib
from typing import Any

import lerobot.policies.pi0 as lerobot_pi0
import pytest
import torch
from lerobot.policies.rtc import modeling_rtc
from lerobot.policies.rtc.modeling_rtc import RTCProcessor

from lerobot_pi0_ttnn import PI0TTNNConfig, PI0TTNNPolicy
from lerobot_pi0_ttnn.demo.checkpoint import random_tensor
from lerobot_pi0_ttnn.model import rtc
from lerobot_pi0_ttnn.model.config import TINY, PI0ModelConfig
from lerobot_pi0_ttnn.model.tensors import expected_shapes
from lerobot_pi0_ttnn.processor_pi0_ttnn import make_pi0_ttnn_pre_post_processors

OPENPI = "tests.policies.pi0_pi05.openpi_pytorch"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pi0-backend", default="torch", help="torch, or a board for the ttnn backend")


def pytest_configure(config: pytest.Config) -> None:
    backend = config.getoption("--pi0-backend")
    sizes = {"architecture": "tiny"}
    sizes |= {"backend": "torch"} if backend == "torch" else {"backend": "ttnn", "board": backend}
    set_defaults(PI0TTNNConfig, lambda _: sizes)
    set_defaults(PI0TTNNPolicy, lambda policy_config: {"weights": random_weights(policy_config.model_config())})
    replace_names()
    shrink_openpi()
    lift_requirements()


def set_defaults(cls: type, defaults: Any) -> None:
    """Lets the tests leave out what a tiny policy needs: they give neither sizes nor weights."""
    original = cls.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if cls is PI0TTNNConfig or len(args) < 2:
            kwargs = defaults(*(args or (kwargs.get("config"),))) | kwargs
        original(self, *args, **kwargs)

    cls.__init__ = init


def random_weights(model: PI0ModelConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: random_tensor(name, shape, generator, torch.float32) for name, shape in expected_shapes(model).items()
    }


def replace_names() -> None:
    for module, name, ours in (
        ("modeling_pi0", "PI0Policy", PI0TTNNPolicy),
        ("configuration_pi0", "PI0Config", PI0TTNNConfig),
        ("processor_pi0", "make_pi0_pre_post_processors", make_pi0_ttnn_pre_post_processors),
    ):
        setattr(importlib.import_module(f"lerobot.policies.pi0.{module}"), name, ours)
        setattr(lerobot_pi0, name, ours)
    modeling_rtc.RTCProcessor = ClosedForm


class ClosedForm(RTCProcessor):
    """LeRobot's processor with this package's arithmetic."""

    def get_prefix_weights(self, start: int, end: int, total: int) -> torch.Tensor:
        return rtc.prefix_weights(self.rtc_config.prefix_attention_schedule, start, end, total)

    def denoise_step(
        self, x_t, prev_chunk_left_over, inference_delay, time, original_denoise_step_partial, execution_horizon=None
    ):
        if prev_chunk_left_over is None:
            return original_denoise_step_partial(x_t)
        rows = x_t if x_t.ndim == 3 else x_t[None]
        guidance = rtc.make_guidance(
            prev_chunk_left_over,
            tuple(rows.shape),
            widths=(prev_chunk_left_over.shape[-1],),
            delay=inference_delay,
            execution_horizon=self.rtc_config.execution_horizon if execution_horizon is None else execution_horizon,
            schedule=self.rtc_config.prefix_attention_schedule,
            max_gain=self.rtc_config.max_guidance_weight,
        )
        (gain,) = rtc.gains([float(time)], guidance.max_gain)
        guided = rtc.guided(original_denoise_step_partial(rows), rows, guidance, float(time), gain)
        return guided.reshape(x_t.shape)


def shrink_openpi() -> None:
    """Gives openpi's model, which LeRobot's tests carry as their judge, the sizes of `TINY`; they are literals there."""
    gemma, model = (importlib.import_module(f"{OPENPI}.{name}") for name in ("gemma", "gemma_pytorch"))
    gemma.get_config = {"gemma_2b": TINY.vlm, "gemma_300m": TINY.expert}.__getitem__
    paligemma, causal_lm = model.PaliGemmaForConditionalGenerationWithPiGemma, model.PiGemmaForCausalLM

    def tiny_paligemma(config: Any) -> Any:
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            setattr(config.vision_config, name, getattr(TINY.vision, name))
        config.vision_config.projection_dim = TINY.vlm.width
        config.text_config.vocab_size = config._vocab_size = config.image_token_index = TINY.vocab_size
        return paligemma(config=config)

    def tiny_causal_lm(config: Any) -> Any:
        config.vocab_size = TINY.vocab_size
        return causal_lm(config=config)

    model.PaliGemmaForConditionalGenerationWithPiGemma = tiny_paligemma
    model.PiGemmaForCausalLM = tiny_causal_lm


def lift_requirements() -> None:
    """The tests ask for CUDA and a Hub token because of their policy's size and tokenizer; both are small here."""
    utils = importlib.import_module("tests.utils")
    utils.require_cuda = utils.require_hf_token = lambda test: test


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> None:
    """Puts our type into the list of policies that `test_policies.py` goes through."""
    if name == "AVAILABLE_POLICIES":
        obj[:] = ["pi0_ttnn"]
