"""How near is near enough: the one measure for results that are not computed in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Measurement:
    """One call of `assert_quality`: what the parity tables are made of."""

    pcc: float
    rel_rmse: float
    limit: float


measurements: list[Measurement] = []
"""Of the test that runs."""


def assert_quality(got: Tensor, want: Tensor, *, pcc: float, rel_rmse: float) -> None:
    """Checks direction (Pearson correlation) and size of the error; wrong shapes and non-finite values always fail.

    Args:
        got: under test.
        want: what it should be; not constant, or there would be nothing to correlate.
        pcc: the least correlation.
        rel_rmse: the greatest root mean square error, relative to the standard deviation of `want`.
    """
    from lerobot_pi0_ttnn.deviation import deviation  # here: a process that computes nothing reads this file, too

    assert got.shape == want.shape, f"shape: expected {tuple(want.shape)}, got {tuple(got.shape)}"
    for name, tensor in (("got", got), ("want", want)):
        assert tensor.isfinite().all(), f"{name}: {int((~tensor.isfinite()).sum())} of {tensor.numel()} not finite"
    measure = deviation(got, want)
    correlation, error = measure.pcc, measure.rel_rmse
    measurements.append(Measurement(correlation, error, rel_rmse))
    measured = f"PCC {correlation:.6f} (at least {pcc}), relative RMSE {error:.6f} (at most {rel_rmse})"
    # Written so that NaN, the correlation with a constant, fails too.
    assert correlation >= pcc, measured
    assert error <= rel_rmse, measured
