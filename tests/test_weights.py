"""The table of tensors against LeRobot's own, and what happens where a checkpoint does not fit it."""

import dataclasses
import math

import pytest
import torch
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi0.modeling_pi0 import PI0Pytorch

from lerobot_pi0_ttnn.model.config import PI0_BASE, TINY
from lerobot_pi0_ttnn.model.tensors import Weights, check_shapes, check_weights, expected_shapes
from lerobot_pi0_ttnn.reference import PI0ModelTorch

from .oracle import make_lerobot_policy, state_dict


def test_shapes_are_the_tiny_policys(policy):
    assert expected_shapes(TINY) == {name: tuple(tensor.shape) for name, tensor in state_dict(policy).items()}


def test_state_and_actions_may_differ_in_width():
    lerobot = make_lerobot_policy(max_state_dim=24, max_action_dim=16)
    want = {name: tuple(tensor.shape) for name, tensor in state_dict(lerobot).items()}
    assert expected_shapes(dataclasses.replace(TINY, state_dim=24, action_dim=16)) == want


def test_shapes_are_pi0_bases():
    with torch.device("meta"):
        lerobot = PI0Pytorch(PI0Config(device="cpu"))
    assert expected_shapes(PI0_BASE) == {name: tuple(tensor.shape) for name, tensor in state_dict(lerobot).items()}


def test_pi0_base_has_3_24_billion_parameters():
    # Layers: q and k (or out and v), MLP, norms. Sums of pi0.md's table, with the biases that it rounds away.
    siglip = 1152 * 3 * 14 * 14 + 1152 + 256 * 1152 + 2 * 1152
    siglip += 27 * (4 * (1152 * 1152 + 1152) + 2 * 1152 * 4304 + 4304 + 1152 + 4 * 1152)
    projector = 1152 * 2048 + 2048
    language = 257_152 * 2048
    vlm = 18 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 16384 + 2 * 2048) + 2048
    expert = 18 * (2 * 1024 * 2048 + 2 * 1024 * 256 + 3 * 1024 * 4096 + 2 * 1024) + 1024
    heads = 2 * (32 * 1024 + 1024) + (2048 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 32 + 32)
    assert siglip + projector + language + vlm + expert + heads == 3_238_048_528
    assert sum(math.prod(shape) for shape in expected_shapes(PI0_BASE).values()) == 3_238_048_528


def test_complete_set_passes(policy):
    check_shapes(TINY, expected_shapes(TINY))
    check_weights(TINY, state_dict(policy))


def test_one_error_lists_everything_sorted():
    shapes = expected_shapes(TINY)
    del shapes["state_proj.bias"], shapes["action_in_proj.weight"]
    shapes["time_mlp_in.weight"] = (64, 128)
    shapes["lm_head.weight"] = (512, 128)
    shapes["action_out_proj.weight"] = (7, 64)
    shapes["state_proj.weight"] = (32, 64)
    with pytest.raises(ValueError, match="not a complete pi0 model") as error:
        check_shapes(TINY, shapes, where="here.safetensors")
    first, *listed, last = str(error.value).splitlines()
    assert first.startswith("here.safetensors: ")
    assert [line.strip() for line in listed] == [
        "missing action_in_proj.weight: expected (64, 32)",
        "missing state_proj.bias: expected (64,)",
        "unexpected lm_head.weight: (512, 128)",
        "unexpected time_mlp_in.weight: (64, 128)",
        "wrong shape action_out_proj.weight: expected (32, 64), got (7, 64)",
        "wrong shape state_proj.weight: expected (64, 32), got (32, 64)",
    ]
    assert last.startswith("Check that")


def test_model_refuses_an_incomplete_set(policy):
    weights = state_dict(policy)
    del weights["state_proj.bias"]
    with pytest.raises(ValueError, match=r"missing state_proj\.bias"):
        PI0ModelTorch(TINY, weights)


def test_shapes_are_checked_without_reading():
    class Unread(dict):
        def shapes(self):
            return {**expected_shapes(TINY), "extra": (1,)}

        def __str__(self):
            return "some/repo"

    with pytest.raises(ValueError, match=r"some/repo: .*\n.*unexpected extra: \(1,\)"):
        check_weights(TINY, Unread())


def test_cursor_takes_without_a_copy_where_it_can():
    tensor = torch.ones(2)
    cursor = Weights({"a.b.weight": tensor}).at("a").at("b")
    assert cursor.take("weight", torch.float32).data_ptr() == tensor.data_ptr()
    assert cursor.take("weight", torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(KeyError, match=r"a\.b\.bias"):
        cursor.take("bias", torch.float32)
