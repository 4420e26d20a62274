"""Which dtype and math fidelity each role of op has: one table, chosen by name.

Gemma's and SigLIP's matrices are what a preset rounds. The suffix projections and x_t are float32 in all of them:
a thousandth of the bytes, and their errors come back in each denoising step.
"""

from dataclasses import dataclass, fields, replace

import ttnn


def _kernel(
    fidelity: ttnn.MathFidelity, throttle: ttnn.ThrottleLevel = ttnn.ThrottleLevel.NO_THROTTLE
) -> ttnn.WormholeComputeKernelConfig:
    """Returns a config for Wormhole and Blackhole alike: exact exp and gelu, float32 accumulation."""
    return ttnn.WormholeComputeKernelConfig(
        math_fidelity=fidelity,
        math_approx_mode=False,
        fp32_dest_acc_en=True,
        packer_l1_acc=True,
        throttle_level=throttle,
    )


@dataclass(frozen=True)
class OpPrecision:
    """Precision of the ops of one role.

    Attributes:
        weights: dtype of the matrices.
        activations: dtype of what the ops hand on.
        stream: dtype of the residual stream that the role adds to.
        fidelity: passes of the multiplier in matmuls; HiFi4 uses every bit of a bfloat16 mantissa, HiFi2 half of one
            operand's.
        throttle: how much the matmuls are slowed down, see `throttled`.
    """

    weights: ttnn.DataType
    activations: ttnn.DataType
    stream: ttnn.DataType
    fidelity: ttnn.MathFidelity
    throttle: ttnn.ThrottleLevel = ttnn.ThrottleLevel.NO_THROTTLE

    @property
    def kernel(self) -> ttnn.WormholeComputeKernelConfig:
        """The compute kernel config of matmuls with weights."""
        return _kernel(self.fidelity, self.throttle)

    @property
    def exact_kernel(self) -> ttnn.WormholeComputeKernelConfig:
        """The compute kernel config of all that is not a matmul with weights: norms, RoPE, attention.

        Fewer passes cut low bits off instead of rounding them, so that real kernels make everything a little smaller, and
        it adds up. These ops are a fiftieth of the multiplications.
        """
        return _kernel(ttnn.MathFidelity.HiFi4)


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


_EXACT = OpPrecision(ttnn.float32, ttnn.float32, ttnn.float32, ttnn.MathFidelity.HiFi4)


def _preset(weights: ttnn.DataType, prefix: ttnn.MathFidelity, expert: ttnn.MathFidelity) -> Precision:
    return Precision(
        patches=OpPrecision(ttnn.bfloat16, ttnn.bfloat16, ttnn.bfloat16, ttnn.MathFidelity.HiFi4),
        vision=OpPrecision(weights, ttnn.bfloat16, ttnn.bfloat16, prefix),
        vlm=OpPrecision(weights, ttnn.bfloat16, ttnn.bfloat16, prefix),
        # 64 rows are bound by the reading of weights: exact multiplication and a float32 stream cost no time.
        expert=OpPrecision(weights, ttnn.bfloat16, ttnn.float32, expert),
        suffix=_EXACT,
        cache=ttnn.bfloat16,
        rotary=ttnn.float32,
    )


PRESETS = {
    "accurate": _preset(ttnn.bfloat16, ttnn.MathFidelity.HiFi4, ttnn.MathFidelity.HiFi4),
    "balanced": _preset(ttnn.bfloat8_b, ttnn.MathFidelity.HiFi2, ttnn.MathFidelity.HiFi4),
    "fast": _preset(ttnn.bfloat8_b, ttnn.MathFidelity.LoFi, ttnn.MathFidelity.HiFi2),
}


def preset(name: str) -> Precision:
    """Returns the preset of that name.

    Raises:
        ValueError: with the names that there are.
    """
    if name not in PRESETS:
        raise ValueError(f"precision: expected one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]


def throttled(precision: Precision, level: int) -> Precision:
    """Returns a preset whose matmuls with weights are slowed down by idle cycles, and compute the same.

    A full grid of matmuls can draw so much, so suddenly, that a card computes wrong or hangs (di/dt, docs/faults.md).

    Args:
        precision: the preset.
        level: 0, not at all; 1 to 5: to 73, 67, 50, 40 and 33 % of the multipliers' rate, by ttnn's own account.
    """
    ttnn_level = list(ttnn.ThrottleLevel.__members__.values())[level]
    roles = {field.name: getattr(precision, field.name) for field in fields(precision)}
    return replace(
        precision,
        **{name: replace(role, throttle=ttnn_level) for name, role in roles.items() if isinstance(role, OpPrecision)},
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
