"""How near is near enough: the one measure for results that are not computed in float32."""

import os
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measurement:
    """One call of `assert_quality`: what the parity tables are made of."""

    test: str
    pcc: float
    rel_rmse: float
    limit: float


measurements: list[Measurement] = []
"""Of all tests of this process so far."""


def assert_quality(got: Tensor, want: Tensor, *, pcc: float, rel_rmse: float) -> None:
    """Checks direction (Pearson correlation) and size of the error; wrong shapes and non-finite values always fail.

    Args:
        got: under test.
        want: what it should be; not constant, or there would be nothing to correlate.
        pcc: the least correlation.
        rel_rmse: the greatest root mean square error, relative to the standard deviation of `want`.
    """
    assert got.shape == want.shape, f"shape: expected {tuple(want.shape)}, got {tuple(got.shape)}"
    for name, tensor in (("got", got), ("want", want)):
        assert tensor.isfinite().all(), f"{name}: {int((~tensor.isfinite()).sum())} of {tensor.numel()} not finite"
    got, want = got.double().flatten(), want.double().flatten()
    correlation = torch.corrcoef(torch.stack([got, want]))[0, 1].item()
    error = ((got - want).square().mean().sqrt() / want.std(correction=0)).item()
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0].partition("::")[2]
    measurements.append(Measurement(test, correlation, error, rel_rmse))
    measured = f"PCC {correlation:.6f} (at least {pcc}), relative RMSE {error:.6f} (at most {rel_rmse})"
    # Written so that NaN, the correlation with a constant, fails too.
    assert correlation >= pcc, measured
    assert error <= rel_rmse, measured
