"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Raises:
        ValueError: it complains and names no fix, or names one and does not complain.
    """

    check: str
    status: Status
    """`fail`: the backend that was asked for cannot run. `warn`: some use of it cannot, or differs from what one expects."""
    found: str
    fix: str = ""

    def __post_init__(self) -> None:
        if (self.status == "ok") == bool(self.fix):
            raise ValueError(f"{self.check}: a fix belongs to warn and fail, got {self.status!r} with {self.fix!r}")
