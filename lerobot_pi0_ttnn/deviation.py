"""How far a result is off: the one measure for what is not computed in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Deviation:
    """How far a tensor is from what it should be.

    Attributes:
        rel_rmse: root mean square error, relative to the standard deviation of what it should be.
        pcc: Pearson's correlation; NaN with a constant.
    """

    rel_rmse: float
    pcc: float

    def within(self, rel_rmse: float, pcc: float | None = None) -> bool:
        """Returns whether both keep their limit: the PCC's is by default what an unbiased error of that size leaves.

        False where they are NaN.
        """
        return self.rel_rmse <= rel_rmse and self.pcc >= (1 - rel_rmse**2 - 1e-9 if pcc is None else pcc)


def deviation(got: Tensor, want: Tensor) -> Deviation:
    """Returns how far `got` is from `want`, computed in float64; NaN where one of them is not finite.

    Raises:
        ValueError: they differ in shape.
    """
    import torch  # here, because a process that computes nothing reads this file, too

    if got.shape != want.shape:
        raise ValueError(f"shape: expected {tuple(want.shape)}, got {tuple(got.shape)}")
    got, want = got.double().flatten(), want.double().flatten()
    correlation = torch.corrcoef(torch.stack([got, want]))[0, 1].item()
    return Deviation(((got - want).square().mean().sqrt() / want.std(correction=0)).item(), correlation)
