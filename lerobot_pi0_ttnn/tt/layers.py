"""The layers that SigLIP and Gemma share. Weights are folded, fused and padded on the host in float32, then rounded.

Activations are (1, 1, T, D) in tiles of 32 x 32, T a multiple of 32, so that no op sees a row that nobody wrote.
"""

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
import ttnn
from torch import Tensor

from .precision import OpPrecision
from .program import MatmulProgram, interleaved_like, norm_program, sdpa_program
from .weights import DeviceWeights, Make


def pad_rows(x: Tensor, rows: int, value: float = 0.0) -> Tensor:
    """Returns x, (..., T, D), with `value` in further rows up to `rows`."""
    return F.pad(x, (0, 0, 0, rows - x.shape[-2]), value=value)


def pad_columns(x: Tensor, columns: int, value: float = 0.0) -> Tensor:
    """Returns x, (..., D), with `value` in further columns up to `columns`."""
    return F.pad(x, (0, columns - x.shape[-1]), value=value)


@dataclass(frozen=True)
class Modulation:
    """What becomes of what a norm has normalised: x * scale + shift, and then the branch that reads it times gate.

    Attributes:
        scale: (D,) float32.
        shift: (D,) float32, or None.
        gate: (D,) float32, or None, as everywhere in pi0.
    """

    scale: Tensor
    shift: Tensor | None = None
    gate: Tensor | None = None


def folded(weight: Make, bias: Make | None, modulation: Modulation | None) -> tuple[Make, Make | None]:
    """Returns what makes the (out, in) weight and the (out,) bias of a linear with the modulation of the norm it reads in them.

    Args:
        weight: makes the linear's own.
        bias: makes the linear's own; None for a linear without.
        modulation: the same at every call; None where there is nothing to fold.
    """
    if modulation is None:
        return weight, bias
    scale, shift = modulation.scale, modulation.shift
    if shift is None:
        return lambda: weight() * scale, bias
    return lambda: weight() * scale, lambda: weight() @ shift + (bias() if bias else 0.0)


class Linear:
    """activation(x @ weight.T + bias).

    Args:
        weights: cursor at the part that the layer is of.
        name: of the layer in it.
        weight: makes (out, in) float32, rounded to the role's dtype only here.
        bias: makes (out,) float32; None for a layer without.
        precision: of the matmul.
        activation: that the matmul applies to what it accumulated.
        output: dtype of the result; the role's activation dtype by default.
        reads: modulation of the norm that makes x, which does not apply it; None for any other x.
    """

    def __init__(
        self,
        weights: DeviceWeights,
        name: str,
        weight: Make,
        bias: Make | None,
        precision: OpPrecision,
        *,
        activation: ttnn.UnaryOpType | None = None,
        output: ttnn.DataType | None = None,
        reads: Modulation | None = None,
    ) -> None:
        weight, bias = folded(weight, bias, reads)
        layer = weights.at(name)
        self.weight = layer.upload("weight", lambda: weight().T.contiguous(), precision.weights)
        self.bias = None if bias is None else layer.upload("bias", lambda: bias()[None, :], precision.activations)
        self.activation = activation
        self.output = output or precision.activations
        self.kernel = precision.kernel
        self.programs = weights.programs

    def __call__(
        self,
        x: ttnn.Tensor,
        bias: ttnn.Tensor | None = None,
        *,
        activation: ttnn.UnaryOpType | None = None,
        memory: ttnn.MemoryConfig | None = None,
    ) -> ttnn.Tensor:
        """Returns (..., T, out).

        Args:
            x: (..., T, in).
            bias: (1, out), in place of the layer's own.
            activation: in place of the layer's own.
            memory: where the result goes; interleaved beside x by default.
        """
        activation, memory = activation or self.activation, memory or interleaved_like(x)
        program = self.programs.matmul(x, self.weight, self.output, memory, activation)
        what = f"linear {'x'.join(map(str, x.shape))} {x.dtype.name} to {self.weight.shape[-1]} {self.output.name}"
        bias = self.bias if bias is None else bias
        # No closure over x: an error that is held would keep it, see `Board.in_use`.
        return self.programs.run(what, program, partial(self._linear, x, bias, activation, memory))

    def _linear(
        self,
        x: ttnn.Tensor,
        bias: ttnn.Tensor | None,
        activation: ttnn.UnaryOpType | None,
        memory: ttnn.MemoryConfig,
        config: MatmulProgram | None,
    ) -> ttnn.Tensor:
        # Without a program ttnn takes no operand in shards to which an activation follows.
        return ttnn.linear(
            x if config or not x.is_sharded() else ttnn.to_memory_config(x, interleaved_like(x)),
            self.weight,
            bias=bias,
            activation=None if config or not activation else activation.name.lower(),
            dtype=self.output,
            memory_config=memory,
            compute_kernel_config=self.kernel,
            program_config=config,
        )


class RMSNorm:
    """Gemma's norm without its modulation: x / rms(x). The scale, 1 + weight, is folded into the linears that read it.

    Args:
        weights: cursor at the layer.
        epsilon: added to the mean square.
        precision: of the role.
    """

    def __init__(self, weights: DeviceWeights, epsilon: float, precision: OpPrecision) -> None:
        self.modulation = Modulation(scale=1.0 + weights.take("weight"))
        self.epsilon = epsilon
        self.kernel = precision.exact_kernel

    def __call__(self, x: ttnn.Tensor) -> ttnn.Tensor:
        """Returns (1, 1, T, D) in the dtype of x, where x is."""
        return ttnn.rms_norm(
            x,
            epsilon=self.epsilon,
            memory_config=x.memory_config(),
            program_config=norm_program(x),
            compute_kernel_config=self.kernel,
        )


class LayerNorm:
    """SigLIP's norm without its modulation: scale and shift are folded into the linears that read it.

    Args:
        weights: cursor at the layer.
        epsilon: added to the variance.
        precision: of the role.
    """

    def __init__(self, weights: DeviceWeights, epsilon: float, precision: OpPrecision) -> None:
        self.modulation = Modulation(scale=weights.take("weight"), shift=weights.take("bias"))
        self.epsilon = epsilon
        self.kernel = precision.exact_kernel

    def __call__(self, x: ttnn.Tensor) -> ttnn.Tensor:
        """Returns (B, 1, T, D) in the dtype of x."""
        return ttnn.layer_norm(x, epsilon=self.epsilon, compute_kernel_config=self.kernel)


def attention(
    q: ttnn.Tensor,
    k: ttnn.Tensor,
    v: ttnn.Tensor,
    *,
    scale: float,
    precision: OpPrecision,
    mask: ttnn.Tensor | None = None,
) -> ttnn.Tensor:
    """Returns softmax(q @ k.T * scale + mask) @ v with its heads joined, (B, 1, T, N * H).

    Args:
        q: (B, N, T, H).
        k: (B, K, S, H).
        v: (B, K, S, H).
        scale: of the scores.
        precision: of the role.
        mask: (1, 1, T, S), added to the scores.
    """
    # The result lies beside the queries.
    return ttnn.transformer.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=False,
        scale=scale,
        memory_config=interleaved_like(q),
        program_config=sdpa_program(q.device(), q.shape[0] * q.shape[1], q.shape[-2], k.shape[-2]),
        compute_kernel_config=precision.exact_kernel,
        output_concat_heads=True,
    )
