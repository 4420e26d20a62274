"""The layers that SigLIP and Gemma share. Weights are folded, fused and padded on the host in float32, then rounded.

Activations are (1, 1, B * T, D) in tiles of 32 x 32, T a multiple of 32, so that no op sees a row that nobody wrote.
"""

from dataclasses import dataclass
from functools import partial
from math import prod

import torch.nn.functional as F
import ttnn
from torch import Tensor

from .ops.add_projection import AddProjectionPlan, add_projection
from .ops.group_matmul import GroupMatmulPlan, group_matmul
from .precision import OpPrecision
from .program import MatmulProgram, interleaved_like, norm_program, sdpa_program
from .weights import DeviceWeights, Make, to_device


def pad_rows(x: Tensor, rows: int, value: float = 0.0) -> Tensor:
    """Returns x, (..., T, D), with `value` in further rows up to `rows`."""
    return F.pad(x, (0, 0, 0, rows - x.shape[-2]), value=value)


def pad_columns(x: Tensor, columns: int, value: float = 0.0) -> Tensor:
    """Returns x, (..., D), with `value` in further columns up to `columns`."""
    return F.pad(x, (0, columns - x.shape[-1]), value=value)


def by_rows(x: ttnn.Tensor, rows: int) -> ttnn.Tensor:
    """Returns a view of x, (..., T, D), as (rows, 1, all T of a row, D), T a multiple of 32; x itself where it is one."""
    *batch, tokens, width = tuple(x.shape)
    shape = [rows, 1, prod(batch) * tokens // rows, width]
    return x if shape == list(x.shape) else ttnn.reshape(x, shape)


@dataclass(frozen=True)
class Modulation[T]:
    """What becomes of what a norm has normalised: x * scale + shift, and then the branch that reads it times gate.

    One that never changes is on the host, (D,) float32, and folded into what reads the norm. One that the time makes is on the
    device, (1, D) in the dtype of the stream, and given to the norm and to `add_branch`.

    Attributes:
        scale: what the norm multiplies by.
        shift: what it adds, or None.
        gate: what the branch is multiplied by, or None, as everywhere in pi0.
    """

    scale: T
    shift: T | None = None
    gate: T | None = None


def folded(weight: Make, bias: Make | None, modulation: Modulation[Tensor] | None) -> tuple[Make, Make | None]:
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
        reads: Modulation[Tensor] | None = None,
    ) -> None:
        weight, bias = folded(weight, bias, reads)
        layer = weights.at(name)
        self.weight = layer.upload("weight", lambda: weight().T.contiguous(), precision.weights)
        self.bias = None if bias is None else layer.upload("bias", lambda: bias()[None, :], precision.activations)
        self.activation = activation
        self.output = output or precision.activations
        self.precision = precision
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
            memory: where the result goes; interleaved by default, in L1 if it fits there.
        """
        activation = activation or self.activation
        memory = memory or self._near(x)
        bias = self.bias if bias is None else bias
        plan = None
        if bias is None and activation is None:
            plan = self.programs.group_matmul(x, self.weight, self.output, memory)
        # No closure over x: an error that is held would keep it, see `Board.in_use`.
        return self.programs.run(
            f"{self._what(x)} in groups", plan, partial(self._in_groups, x, bias, activation, memory)
        )

    def _near(self, x: ttnn.Tensor) -> ttnn.MemoryConfig:
        return self.programs.near(x, self.weight.shape[-1], self.output)

    def _what(self, x: ttnn.Tensor) -> str:
        return f"linear {'x'.join(map(str, x.shape))} {x.dtype.name} to {self.weight.shape[-1]} {self.output.name}"

    def _in_groups(
        self,
        x: ttnn.Tensor,
        bias: ttnn.Tensor | None,
        activation: ttnn.UnaryOpType | None,
        memory: ttnn.MemoryConfig,
        plan: GroupMatmulPlan | None,
    ) -> ttnn.Tensor:
        if plan is None:
            program = self.programs.matmul(x, self.weight, self.output, memory, activation)
            return self.programs.run(self._what(x), program, partial(self._linear, x, bias, activation, memory))
        fidelity, throttle = self.precision.fidelity, self.precision.throttle
        return group_matmul(x, self.weight, plan, fidelity, throttle, output=self.output, memory=memory)

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
            compute_kernel_config=self.precision.kernel,
            program_config=config,
        )


class RMSNorm:
    """Gemma's norm: x / rms(x), and, where it is adaptive, the modulation of the step. Any other's is folded away.

    Args:
        weights: cursor at the layer.
        epsilon: added to the mean square.
        precision: of the role.
        adaptive: whether `dense`, of 3 x D, makes the modulation.

    Attributes:
        modulation: To be folded into the linears that read the norm, scaled by 1 + weight; None of an adaptive norm.
    """

    def __init__(
        self, weights: DeviceWeights, epsilon: float, precision: OpPrecision, *, adaptive: bool = False
    ) -> None:
        if adaptive:
            # The checkpoint's own tensors are read anew for each schedule: as float32 they would be kept for nothing.
            self.dense, self.stream = weights.at("dense"), precision.stream
        self.modulation = None if adaptive else Modulation(scale=1.0 + weights.take("weight"))
        self.epsilon = epsilon
        self.kernel = precision.exact_kernel

    def modulations(self, conditions: Tensor) -> list[Modulation[ttnn.Tensor]]:
        """Returns the modulation of an adaptive norm at each step, newly allocated.

        Args:
            conditions: (steps, D) float32, see `SuffixEmbeddingTTNN.time_conditions`.
        """
        made = F.linear(conditions, self.dense.take("weight"), self.dense.take("bias"))
        scale, shift, gate = made.chunk(3, dim=-1)
        # In tiles: of float32 rows without, ttnn's norms drop half (tt-metal #49902).
        return [
            Modulation(*(to_device(row[None, :], self.stream, self.dense.device) for row in rows))
            for rows in zip(1.0 + scale, shift, gate, strict=True)
        ]

    def __call__(self, x: ttnn.Tensor, modulation: Modulation[ttnn.Tensor] | None = None) -> ttnn.Tensor:
        """Returns (1, 1, B * T, D) in the dtype of x, where x is.

        Args:
            x: (1, 1, B * T, D).
            modulation: of this step; an adaptive norm needs it, any other has none.
        """
        return ttnn.rms_norm(
            x,
            epsilon=self.epsilon,
            weight=modulation and modulation.scale,
            bias=modulation and modulation.shift,
            memory_config=x.memory_config(),
            program_config=norm_program(x),
            compute_kernel_config=self.kernel,
        )


def add_branch(
    x: ttnn.Tensor, branch: ttnn.Tensor, modulation: Modulation[ttnn.Tensor] | None, into: ttnn.Tensor | None = None
) -> ttnn.Tensor:
    """Returns the residual stream after a branch, gated where the norm that it reads is adaptive.

    Args:
        x: (1, 1, B * T, D).
        branch: (1, 1, B * T, D), in the dtype of x.
        modulation: of the norm that the branch reads; None where it is not adaptive.
        into: where the result goes; newly allocated by default, and after an adaptive norm.
    """
    if into is not None:
        return ttnn.add(x, branch, output_tensor=into)
    if modulation is not None:
        return ttnn.addcmul(x, branch, modulation.gate)
    # A stream that came in DRAM moves to L1 where branches fit there.
    return ttnn.add(x, branch, memory_config=x.memory_config() if x.is_sharded() else interleaved_like(branch))


class BranchLinear(Linear):
    """The linear that ends a branch, (in, out) without a bias: its result goes to the residual stream. As `Linear` besides.

    Args:
        weights: cursor at the part that the layer is of.
        name: of the layer in it.
        precision: of the matmul.
    """

    def __init__(self, weights: DeviceWeights, name: str, precision: OpPrecision) -> None:
        super().__init__(
            weights, name, partial(weights.take, f"{name}.weight"), None, precision, output=precision.stream
        )

    def result_of(self, x: ttnn.Tensor) -> ttnn.Tensor:
        """Returns a place for what `add_to` makes of many rows, (1, 1, B * T, out), as many as x has."""
        shape = ttnn.Shape([*tuple(x.shape)[:-1], self.weight.shape[-1]])
        return ttnn.allocate_tensor_on_device(shape, self.output, ttnn.TILE_LAYOUT, x.device(), self._near(x))

    def add_to(
        self,
        stream: ttnn.Tensor,
        x: ttnn.Tensor,
        modulation: Modulation[ttnn.Tensor] | None,
        into: ttnn.Tensor | None = None,
    ) -> ttnn.Tensor:
        """Returns stream + gate * (x @ weight.T), (1, 1, B * T, out): by our own program where one is quicker than ttnn's.

        Args:
            stream: (1, 1, B * T, out).
            x: (1, 1, B * T, in), or (1, N, T, in / N), whose heads are joined.
            modulation: of the norm that the branch reads, which has the gate; None where it is not adaptive.
            into: of `result_of`, for the result; newly allocated by default.
        """
        plan = self.programs.add_projection(stream, x, self.weight) or self._groups(stream, x, modulation)
        what = f"{'x'.join(map(str, x.shape))} {x.dtype.name} projected and added to {self.weight.shape[-1]}"
        return self.programs.run(what, plan, partial(self._add_to, stream, x, modulation, into))

    def _groups(
        self, stream: ttnn.Tensor, x: ttnn.Tensor, modulation: Modulation[ttnn.Tensor] | None
    ) -> GroupMatmulPlan | None:
        if modulation is not None or x.shape[1] != 1 or stream.is_sharded() or stream.dtype != self.output:
            return None
        return self.programs.group_matmul(x, self.weight, self.output, self._near(x), adds=True)

    def _add_to(
        self,
        stream: ttnn.Tensor,
        x: ttnn.Tensor,
        modulation: Modulation[ttnn.Tensor] | None,
        into: ttnn.Tensor | None,
        plan: AddProjectionPlan | GroupMatmulPlan | None,
    ) -> ttnn.Tensor:
        fidelity, throttle = self.precision.fidelity, self.precision.throttle
        if plan is None:
            joined = x if x.shape[1] == 1 else ttnn.experimental.nlp_concat_heads(x, memory_config=interleaved_like(x))
            return add_branch(stream, self(joined), modulation, into)
        if isinstance(plan, GroupMatmulPlan):
            to = {"output": self.output, "memory": self._near(x), "into": into}
            return group_matmul(x, self.weight, plan, fidelity, throttle, **to, stream=stream)
        gate = modulation and modulation.gate
        return add_projection(stream, x, self.weight, gate, plan, fidelity, throttle)


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
        """Returns (B, 1, T, D) in the dtype of x, where x is."""
        return ttnn.layer_norm(
            x, epsilon=self.epsilon, memory_config=x.memory_config(), compute_kernel_config=self.kernel
        )


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
        mask: (B, 1, T, S), added to the scores.
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
