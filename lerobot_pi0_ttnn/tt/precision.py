"""Which dtype and math fidelity each role of op has: one table, chosen by name and architecture.

Gemma's and SigLIP's matrices are what a preset rounds. The suffix projections and x_t are float32 in all of them:
a thousandth of the bytes, and their errors come back in each denoising step.

All accumulation is float32, and so no op of a Wormhole runs at HiFi4: the pair makes single outputs wrong by a power of two
(docs/errata.md). Everything that multiplies, our own programs included, takes its fidelity from here.
"""

from dataclasses import dataclass, fields

import ttnn

HIGHEST_FIDELITY = {
    # tt-metal #38306: with float32 accumulation, 1.3 % of the outputs of a matmul were wrong at HiFi4, none at HiFi3. The pass
    # that HiFi3 leaves out multiplies the low bits of both operands: 0.0001 of relative RMSE (docs/errata.md).
    ttnn.device.Arch.WORMHOLE_B0: ttnn.MathFidelity.HiFi3,
    ttnn.device.Arch.BLACKHOLE: ttnn.MathFidelity.HiFi4,
}
"""The most passes of the multiplier that an architecture accumulates in float32 without a known fault."""


def _kernel(fidelity: ttnn.MathFidelity) -> ttnn.WormholeComputeKernelConfig:
    """Returns a config for Wormhole and Blackhole alike: exact exp and gelu, float32 accumulation."""
    return ttnn.WormholeComputeKernelConfig(
        math_fidelity=fidelity, math_approx_mode=False, fp32_dest_acc_en=True, packer_l1_acc=True
    )


@dataclass(frozen=True)
class OpPrecision:
    """Precision of the ops of one role.

    Attributes:
        weights: dtype of the matrices.
        activations: dtype of what the ops hand on.
        stream: dtype of the residual stream that the role adds to.
        fidelity: passes of the multiplier in matmuls with weights; HiFi3 uses every bit of a bfloat16 mantissa but for the
            product of the low bits of both operands, HiFi2 the high bits of one operand only.
        exact_fidelity: in all that is not a matmul with weights: norms, RoPE, attention.
    """

    weights: ttnn.DataType
    activations: ttnn.DataType
    stream: ttnn.DataType
    fidelity: ttnn.MathFidelity
    exact_fidelity: ttnn.MathFidelity

    @property
    def kernel(self) -> ttnn.WormholeComputeKernelConfig:
        """The compute kernel config of matmuls with weights."""
        return _kernel(self.fidelity)

    @property
    def exact_kernel(self) -> ttnn.WormholeComputeKernelConfig:
        """The compute kernel config of norms and attention.

        Fewer passes cut low bits off instead of rounding them, so that real kernels make everything a little smaller, and
        it adds up. These ops are a fiftieth of the multiplications.
        """
        return _kernel(self.exact_fidelity)


@dataclass(frozen=True)
class Precision:
    """One preset: the precision of each role.

    Attributes:
        patches: patch embedding.
        vision: SigLIP's encoder and the projector.
        vlm: Gemma's layers for the prefix.
        expert: Gemma's layers for the suffix.
        suffix: the projections of state, actions and time, and x_t.
        cache: dtype of the keys and values that later tokens read.
        rotary: dtype of the cosines and sines.
    """

    patches: OpPrecision
    vision: OpPrecision
    vlm: OpPrecision
    expert: OpPrecision
    suffix: OpPrecision
    cache: ttnn.DataType
    rotary: ttnn.DataType


@dataclass(frozen=True)
class _Preset:
    """What presets differ in. A fidelity of None is the highest of the architecture."""

    weights: ttnn.DataType
    prefix: ttnn.MathFidelity | None
    expert: ttnn.MathFidelity | None


PRESETS = {
    "accurate": _Preset(ttnn.bfloat16, None, None),
    "balanced": _Preset(ttnn.bfloat8_b, ttnn.MathFidelity.HiFi2, None),
    "fast": _Preset(ttnn.bfloat8_b, ttnn.MathFidelity.LoFi, ttnn.MathFidelity.HiFi2),
}


def preset(name: str, arch: ttnn.device.Arch) -> Precision:
    """Returns the preset of that name for an architecture.

    Args:
        name: a key of `PRESETS`.
        arch: of the device, `ttnn.Device.arch()`.

    Raises:
        ValueError: no such preset, with the names that there are; or an architecture that this package has not been tried on.
    """
    if name not in PRESETS:
        raise ValueError(f"precision: expected one of {', '.join(PRESETS)}, got {name!r}")
    if arch not in HIGHEST_FIDELITY:
        known = ", ".join(arch.name for arch in HIGHEST_FIDELITY)
        raise ValueError(f"precision: expected a board of {known}, got {arch.name}: its fidelities are not known")
    chosen, highest = PRESETS[name], HIGHEST_FIDELITY[arch]

    def role(
        weights: ttnn.DataType,
        stream: ttnn.DataType,
        fidelity: ttnn.MathFidelity | None = None,
        activations: ttnn.DataType = ttnn.bfloat16,
    ) -> OpPrecision:
        return OpPrecision(weights, activations, stream, fidelity or highest, highest)

    return Precision(
        patches=role(ttnn.bfloat16, ttnn.bfloat16),
        vision=role(chosen.weights, ttnn.bfloat16, chosen.prefix),
        vlm=role(chosen.weights, ttnn.bfloat16, chosen.prefix),
        # 64 rows are bound by the reading of weights: exact multiplication and a float32 stream cost no time.
        expert=role(chosen.weights, ttnn.float32, chosen.expert),
        suffix=role(ttnn.float32, ttnn.float32, activations=ttnn.float32),
        cache=ttnn.bfloat16,
        rotary=ttnn.float32,
    )


def table(precision: Precision) -> dict[str, str]:
    """Returns one line for each role, for people to read."""
    lines = {}
    for field in fields(precision):
        role = getattr(precision, field.name)
        lines[field.name] = (
            f"{role.weights.name} weights, {role.stream.name} stream, {role.fidelity.name}"
            if isinstance(role, OpPrecision)
            else role.name
        )
    return lines
