"""Products, norms, activations and elementwise ops against torch written by hand."""

from __future__ import annotations

import math

import pytest
import torch

ttnn = pytest.importorskip("ttnn")


def gelu_by_hand(value: torch.Tensor, *, tanh: bool = False) -> torch.Tensor:
    if tanh:
        return value / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))
    return value / 2 * (1 + torch.erf(value / math.sqrt(2)))


ACTIVATIONS = [
    pytest.param("gelu", gelu_by_hand, id="gelu"),
    pytest.param("gelu_approx", gelu_by_hand, id="gelu_approx"),
    pytest.param("gelu_tanh", lambda value: gelu_by_hand(value, tanh=True), id="gelu_tanh"),
    pytest.param("silu", lambda value: value / (1 + torch.exp(-value)), id="silu"),
    pytest.param(("GELU", True), gelu_by_hand, id="fast-gelu-op"),
    pytest.param(("GELU_TANH",), lambda value: gelu_by_hand(value, tanh=True), id="gelu_tanh-op"),
]


def fused(activation):
    """ttnn's form of a name, or of an op type with its parameters."""
    if not isinstance(activation, tuple):
        return activation
    name, *parameters = activation
    return ttnn.UnaryWithParam(getattr(ttnn.UnaryOpType, name), *parameters)


@pytest.mark.parametrize(("activation", "by_hand"), ACTIVATIONS)
def test_linear_with_activation(draw, upload, agrees, activation, by_hand):
    value, weight, bias = draw(1, 1, 40, 64), draw(64, 96, scale=1 / 8), draw(1, 96)
    product = ttnn.linear(upload(value), upload(weight), bias=upload(bias), activation=fused(activation))
    agrees(product, by_hand(value[0, 0] @ weight + bias)[None, None])


@pytest.mark.parametrize("transposed", [False, True])
def test_linear_and_matmul(draw, upload, agrees, transposed):
    value, weight = draw(2, 40, 64), draw(64, 96, scale=1 / 8)
    on_board = upload(weight.T.contiguous() if transposed else weight)
    expected = torch.einsum("btd,df->btf", value, weight)
    agrees(ttnn.linear(upload(value), on_board, transpose_b=transposed), expected)
    agrees(ttnn.matmul(upload(value), on_board, transpose_b=transposed), expected)


def test_linear_with_every_config(draw, upload, agrees, board):
    value, weight, bias = draw(1, 1, 64, 256), draw(256, 512, scale=1 / 16), draw(1, 512)
    config = ttnn.MatmulMultiCoreReuseMultiCast1DProgramConfig(
        compute_with_storage_grid_size=(8, 2),
        in0_block_w=2,
        out_subblock_h=1,
        out_subblock_w=1,
        per_core_M=2,
        per_core_N=1,
        fuse_batch=True,
        fused_activation=ttnn.UnaryWithParam(ttnn.UnaryOpType.SILU),
        mcast_in0=True,
    )
    kernel = ttnn.init_device_compute_kernel_config(
        board.device.arch(), math_fidelity=ttnn.MathFidelity.HiFi4, fp32_dest_acc_en=True, packer_l1_acc=True
    )
    product = ttnn.linear(
        upload(value),
        upload(weight),
        bias=upload(bias),
        program_config=config,
        compute_kernel_config=kernel,
        memory_config=ttnn.L1_MEMORY_CONFIG,
        dtype=ttnn.bfloat16,
    )
    summed = value[0, 0] @ weight + bias
    agrees(product, (summed / (1 + torch.exp(-summed)))[None, None])


@pytest.mark.parametrize("dtype", ["bfloat8_b", "bfloat4_b"])
def test_weights_in_block_formats_are_rounded_as_ttnn_packs_them(draw, upload, agrees, dtype):
    value, weight = draw(32, 64), draw(64, 96)
    packed = ttnn.from_torch(weight, dtype=getattr(ttnn, dtype), layout=ttnn.TILE_LAYOUT).to_torch().float()
    assert not torch.equal(packed, weight)
    on_board = upload(weight, dtype=getattr(ttnn, dtype))
    agrees(on_board, packed, exact=True)
    agrees(ttnn.linear(upload(value), on_board), value @ packed)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bfloat8_b", "bfloat4_b"])
def test_outputs_are_rounded_to_their_dtype(draw, upload, dtype):
    value, weight = draw(32, 64), draw(64, 96, scale=1 / 8)
    product = ttnn.to_torch(ttnn.linear(upload(value), upload(weight), dtype=getattr(ttnn, dtype))).float()
    exact = value @ weight
    packed = ttnn.from_torch(exact, dtype=getattr(ttnn, dtype), layout=ttnn.TILE_LAYOUT).to_torch().float()
    torch.testing.assert_close(product, packed, rtol=1e-5, atol=1e-5)
    assert (dtype == "float32") == torch.allclose(product, exact, rtol=1e-6, atol=1e-6)


def rms_by_hand(value: torch.Tensor, epsilon: float) -> torch.Tensor:
    return value / (value.square().sum(-1, keepdim=True) / value.shape[-1] + epsilon).sqrt()


@pytest.mark.parametrize("tiled_weight", [False, True])
def test_rms_norm(draw, upload, agrees, tiled_weight):
    value, weight, residual = draw(1, 1, 40, 64), draw(64), draw(1, 1, 40, 64)
    on_board = (
        upload(weight.reshape(1, 64))
        if tiled_weight
        else upload(weight.reshape(1, 1, 2, 32), layout=ttnn.ROW_MAJOR_LAYOUT)
    )
    agrees(ttnn.rms_norm(upload(value), epsilon=0.5), rms_by_hand(value, 0.5))
    agrees(ttnn.rms_norm(upload(value), weight=on_board, epsilon=0.5), rms_by_hand(value, 0.5) * weight)
    agrees(
        ttnn.rms_norm(upload(value), weight=on_board, epsilon=0.5, residual_input_tensor=upload(residual)),
        rms_by_hand(value + residual, 0.5) * weight,
    )


@pytest.mark.parametrize("tiled_weight", [False, True])
def test_layer_norm(draw, upload, agrees, tiled_weight):
    value, weight, bias = draw(1, 1, 40, 64), draw(64), draw(64)

    def on_board(vector):
        if tiled_weight:
            return upload(vector.reshape(1, 64))
        return upload(vector.reshape(1, 1, 2, 32), layout=ttnn.ROW_MAJOR_LAYOUT)

    centred = value - value.mean(-1, keepdim=True)
    expected = rms_by_hand(centred, 0.5) * weight + bias
    agrees(ttnn.layer_norm(upload(value), weight=on_board(weight), bias=on_board(bias), epsilon=0.5), expected)


def test_elementwise(draw, upload, agrees):
    a, b, c = draw(1, 1, 40, 64), draw(1, 1, 40, 64), draw(1, 1, 40, 64)
    row = draw(1, 1, 1, 64)
    on_a, on_b, on_c = upload(a), upload(b), upload(c)
    agrees(ttnn.add(on_a, on_b), a + b)
    agrees(on_a + on_b, a + b)
    agrees(on_a - on_b, a - b)
    agrees(ttnn.add(on_a, 2.0), a + 2)
    agrees(ttnn.multiply(on_a, upload(row)), a * row)
    agrees(ttnn.multiply(on_a, on_b, input_tensor_a_activations=[ttnn.UnaryOpType.SILU]), a / (1 + torch.exp(-a)) * b)
    agrees(ttnn.multiply(on_a, on_b, activations=[ttnn.UnaryOpType.GELU]), gelu_by_hand(a * b))
    agrees(ttnn.addcmul(on_a, on_b, on_c, value=0.5), a + 0.5 * b * c)
    agrees(ttnn.mac(on_a, on_b, on_c), a * b + c)
    agrees(ttnn.multiply(on_a, 0.125), a / 8, exact=True)


def test_embedding(draw, upload, agrees, board):
    table, tokens = draw(100, 64), torch.tensor([[3, 99, 0, 3] * 8], dtype=torch.int32)
    on_board = ttnn.from_torch(tokens, dtype=ttnn.uint32, layout=ttnn.ROW_MAJOR_LAYOUT, device=board.device)
    weights = upload(table, layout=ttnn.ROW_MAJOR_LAYOUT)
    agrees(ttnn.embedding(on_board, weights, layout=ttnn.TILE_LAYOUT), table[tokens[0].long()][None], exact=True)
