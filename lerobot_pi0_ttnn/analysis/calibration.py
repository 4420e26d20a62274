"""What measured operations say of a chip: the cost model's constants, fitted so that it predicts what was measured.

Any number among the fields of `Chip`, or in a mapping there, is such a constant, but for `KEPT`. Which of them the
measurements determine shows in how predictions move with each: the others stay as they were.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from .chips import Chip
from .cost import Machine, cost
from .graph import DeviceOperation

KEPT = {"clock", "dram_bank", "gap", "host"}
"""Fields that operations in a trace say nothing of: the first two scale what is measured in parts of them; the gap is seen with
the start only, which takes on what both are; the last is the host's."""

STARTS, SPREAD = 3, 0.2
"""Fits, of which the best counts, and how far from the known constants they start, in powers of e."""

PRIOR = 5e-3
"""How much a constant that is off by a factor of e counts against an operation that is: what holds those that nothing moves."""

NOISE = 0.01
"""Relative, of a measurement: the least that it is taken to have."""

DETERMINED = 0.02
"""The standard error of a constant, relatively, up to which it counts as measured."""

OUTLIER = 0.1
"""From which relative error on an operation pulls less: one that is slow for its own reasons is no property of the chip."""


@dataclass(frozen=True)
class Calibration:
    """Constants of a chip as measured.

    Attributes:
        arch: that they are of.
        constants: by name: `start`, `matmul.HiFi2`.
        measured: names of those that the measurements determine; the others are as they were known, or nearly.
        operations: how many were measured.
        before: the median relative error of a prediction by the published constants.
        after: by these.
        about: board, versions: for people.
    """

    arch: str
    constants: Mapping[str, float]
    measured: Sequence[str]
    operations: int
    before: float
    after: float
    about: Mapping[str, Any]

    def applied(self, on: Machine, arch: str) -> Machine:
        """Returns the machine with these constants.

        Raises:
            ValueError: it is of another architecture, or the cost model has no such constant.
        """
        if arch != self.arch:
            raise ValueError(f"calibration: expected one of {arch}, got one of {self.arch}")
        return replace(on, chip=with_constants(on.chip, self.constants))

    def as_json(self) -> dict[str, Any]:
        """Returns what `read_calibration` reads."""
        return {
            "format": 1,
            "arch": self.arch,
            "operations": self.operations,
            "median_error_before": self.before,
            "median_error_after": self.after,
            "constants": dict(self.constants),
            "measured": list(self.measured),
            **self.about,
        }


def read_calibration(file: Path) -> Calibration:
    """Returns the calibration that `verify --report` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is none.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"--calibration: {file}: no such file; `lerobot-pi0-ttnn verify CKPT --report DIR` writes it"
        )
    try:
        values = json.loads(file.read_text())
        if values["format"] != 1:
            raise ValueError(f"expected format 1, got {values['format']!r}")
        constants = {name: float(value) for name, value in values["constants"].items()}
        if bad := [name for name, value in constants.items() if not 0 < value < float("inf")]:
            raise ValueError(f"expected positive numbers, got {', '.join(f'{name} {constants[name]}' for name in bad)}")
        known = {"format", "arch", "operations", "median_error_before", "median_error_after", "constants", "measured"}
        return Calibration(
            str(values["arch"]),
            constants,
            [str(name) for name in values["measured"]],
            int(values["operations"]),
            float(values["median_error_before"]),
            float(values["median_error_after"]),
            {name: value for name, value in values.items() if name not in known},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"--calibration: {file}: expected the calibration.json of `verify --report`: {said}") from None


def constants_of(chip: Chip) -> dict[str, float]:
    """Returns what may be fitted, by name: a field's, with a dot before a mapping's key."""
    found: dict[str, float] = {}
    for field in fields(chip):
        value = getattr(chip, field.name)
        entries = value.items() if isinstance(value, Mapping) else [("", value)]
        for key, number in entries:
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if field.name not in KEPT and is_number and number > 0:
                found[f"{field.name}.{key}" if key else field.name] = float(number)
    return found


def with_constants(chip: Chip, constants: Mapping[str, float]) -> Chip:
    """Returns a chip with some of its constants replaced.

    Raises:
        ValueError: it has no such constant.
    """
    if unknown := sorted(set(constants) - set(constants_of(chip))):
        raise ValueError(
            f"calibration: the cost model has no constant {', '.join(unknown)}: it was made with another release of this "
            "package; make it anew"
        )
    changed: dict[str, Any] = {}
    for name, value in constants.items():
        field, _, key = name.partition(".")
        changed[field] = {**changed.get(field, getattr(chip, field)), key: value} if key else value
    return replace(chip, **changed)


def calibrate(
    measured: Sequence[tuple[Sequence[DeviceOperation], float]],
    on: Machine,
    arch: str,
    *,
    about: Mapping[str, Any] | None = None,
) -> Calibration:
    """Returns the constants with which the cost model comes nearest to what was measured, as far as that determines them.

    Args:
        measured: operations that were timed together, nearly always one, and the seconds that they took.
        on: what ran them, with the constants that are known.
        arch: its architecture.
        about: for people.

    Raises:
        ValueError: nothing was measured, or a time is not positive.
    """
    if not measured or min(seconds for _, seconds in measured) <= 0:
        raise ValueError("calibration: expected operations that took some time each, got none, or one that took none")
    known = constants_of(on.chip)
    took = np.log([seconds for _, seconds in measured])

    def errors(constants: Mapping[str, float]) -> NDArray[np.float64]:
        machine = replace(on, chip=with_constants(on.chip, constants))
        predicted = [sum(cost(each, machine).seconds for each in operations) for operations, _ in measured]
        return np.asarray(np.log(predicted) - took)

    here = errors({})

    def moves(name: str) -> bool:
        return any((errors({name: factor * known[name]}) != here).any() for factor in (0.5, 2))

    fitted = _fit(errors, {name: value for name, value in known.items() if moves(name)})
    before, after = (float(np.median(np.abs(np.expm1(errors(constants))))) for constants in ({}, fitted))
    return Calibration(arch, fitted, _determined(errors, fitted), len(measured), before, after, about or {})


def _fit(errors: Any, start: Mapping[str, float]) -> dict[str, float]:
    names, first = list(start), np.array(list(start.values()))
    if not names:
        return {}

    def residuals(logs: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([errors(dict(zip(names, first * np.exp(logs), strict=True))), PRIOR * logs])

    # A time is the longest of several, so that there are local minima: what bounds an operation may have to change.
    draw = np.random.default_rng(0)
    starts = [np.zeros(len(names)), *draw.normal(0, SPREAD, (STARTS - 1, len(names)))]
    tried = [least_squares(residuals, start, loss="soft_l1", f_scale=OUTLIER, diff_step=1e-3) for start in starts]
    best = min(tried, key=lambda each: each.cost)
    return dict(zip(names, (first * np.exp(best.x)).tolist(), strict=True))


def _determined(errors: Any, constants: Mapping[str, float]) -> list[str]:
    """Returns the constants whose standard error is small: those that move predictions, each in a way of its own."""
    if not constants:
        return []
    step, here = 1e-3, errors(constants)
    columns = [(errors({**constants, name: value * np.exp(step)}) - here) / step for name, value in constants.items()]
    jacobian = np.stack(columns, axis=1)
    noise = max(NOISE, 1.4826 * float(np.median(np.abs(here))))
    information = jacobian.T @ jacobian / noise**2 + np.eye(len(columns)) * 1e-6
    spread = np.sqrt(np.diag(np.linalg.inv(information)))
    return [name for name, error in zip(constants, spread, strict=True) if error <= DETERMINED]
