"""Every operation of a chunk against its golden function, on the inputs that the board has: where a deviation begins.

Relative RMSE and PCC over a tensor hide single wrong outputs, and a Wormhole writes some that are off by a power of two
(tt-metal #38306, docs/errata.md). So outliers are looked for as such.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import ttnn
from torch import Tensor

from ..device.executor import PI0ModelTTNN
from ..emulation.golden_call import board_tensors, golden_call, written
from ..emulation.storage import on_board
from ..emulation.transfers import TRANSFERS
from ..latency import Stage
from ..ttnn_api.hook import Call, Proceed, followed_again
from ..ttnn_api.tiles import TILE

LIMITS = {"accurate": 0.012, "balanced": 0.03, "fast": 0.06}
"""The greatest relative RMSE of one operation by precision, that of the layer it is in: on the simulator one has 0.0032
or less at HiFi3, and 0.0106 or less at HiFi2 (docs/errata.md)."""

FEW = 0.02
"""Of a tensor's elements: what is off in more of them is no outlier. Of the outputs in #52327 1.3 % were."""

TO_A_POWER = 0.06
"""How far from a power of two, relatively, the error of an outlier may be to count as one."""

NOT_COMPARED = set(TRANSFERS) - {"ttnn.generic_op"}
"""What moves or frees tensors, and computes nothing."""

Verdict = Literal["ok", "not finite", "power of two", "outlier", "deviation"]


@dataclass(frozen=True)
class Comparison:
    """A tensor that an operation wrote, against its golden function.

    Attributes:
        rel_rmse: relative to the golden values' standard deviation, of all elements but the outliers.
        outliers: how many elements are off by far more than all others.
        powers: how many of those by a power of two.
        largest: the greatest error of an outlier.
        first: indices of the first outlier, empty without.
        spread: (rows, columns) of tiles from the first outlier to the last.
        not_finite: elements that are not finite where the golden ones are.
        verdict: in a word.
    """

    rel_rmse: float
    outliers: int = 0
    powers: int = 0
    largest: float = 0.0
    first: tuple[int, ...] = ()
    spread: tuple[int, int] = (0, 0)
    not_finite: int = 0
    verdict: Verdict = "ok"


def compare(got: Tensor, want: Tensor, limit: float) -> Comparison:
    """Returns how far `got` is from `want`, float32 of one shape.

    An outlier is an element whose error is far beyond that of the others, and that rounding its value does not explain: an
    error of one unit in the last place of bfloat16 is a power of two as well.

    Args:
        got: from the board.
        want: golden.
        limit: of the relative RMSE.
    """
    got, want = got.double(), want.double()
    lost = ~got.isfinite() & want.isfinite()
    if lost.any():
        first = tuple(int(index) for index in lost.nonzero()[0])
        return Comparison(float("nan"), first=first, not_finite=int(lost.sum()), verdict="not finite")
    if torch.equal(got, want):
        return Comparison(0.0)
    error, scale = got - want, _scale(want)
    size = error.abs()
    typical = size.flatten().median().item() / 0.6745
    # bfloat16 has 8 significant bits: four units in the last place are 2^-6 of the value.
    is_out = size > max(12 * typical, 4 * limit * scale) + want.abs() * 2**-6
    count = int(is_out.sum())
    if not 0 < count <= max(1, FEW * want.numel()):
        rel_rmse = (error.square().mean().sqrt() / scale).item()
        return Comparison(rel_rmse, verdict="ok" if rel_rmse <= limit else "deviation")
    rel_rmse = (error[~is_out].square().mean().sqrt() / scale).item()
    outliers = size[is_out]
    nearest = 2.0 ** outliers.log2().round()
    powers = int(((outliers - nearest).abs() <= TO_A_POWER * nearest).sum())
    where = is_out.nonzero()
    last = where[:, -2:] if want.ndim > 1 else where.expand(-1, 2)
    tiles = last.div(TILE, rounding_mode="floor")
    rows, columns = (int(x) + 1 for x in tiles.max(0).values - tiles.min(0).values)
    # Of errors of any size 12 % are that near to a power of two.
    verdict: Verdict = "deviation" if rel_rmse > limit else "power of two" if 2 * powers > count else "outlier"
    return Comparison(
        rel_rmse,
        count,
        powers,
        outliers.max().item(),
        tuple(int(index) for index in where[0]),
        (rows, columns),
        verdict=verdict,
    )


def _scale(want: Tensor) -> float:
    """The spread of values; of a constant its size, and of zeros 1."""
    for scale in (want.std(correction=0).item(), want.abs().max().item()):
        if scale > 0:
            return scale
    return 1.0


@dataclass(frozen=True)
class OperationResult:
    """One operation of a chunk.

    Attributes:
        number: in order of dispatch, from 0.
        stage: `upload`, `vision`, `prefill`, `step 1`, ....
        name: `ttnn.linear`, `split_heads`.
        weight: that it reads, or the last one that an operation before it read.
        shape: of what it wrote.
        comparison: of that.
    """

    number: int
    stage: str
    name: str
    weight: str
    shape: tuple[int, ...]
    comparison: Comparison

    def __str__(self) -> str:
        """Returns where it is in the model, for people."""
        return f"operation {self.number}, {self.name} in {self.stage}, at {self.weight}"


class OperationCheck:
    """A layer around ttnn's calls (`ttnn_api.hook.add_layer`) that compares what each operation writes.

    Args:
        model: whose operations they are: its weights' names say where in it one is.
        limit: of the relative RMSE of one.
        progress: called after each.

    Attributes:
        results: of all operations, in order.
        not_compared: names of those that have no golden function.
        worst: the tensors of the first one that is not ok: `got`, `want`, and its inputs as they were read.
    """

    def __init__(
        self, model: PI0ModelTTNN, limit: float, progress: Callable[[OperationResult], None] = lambda _: None
    ) -> None:
        self.results: list[OperationResult] = []
        self.not_compared: set[str] = set()
        self.worst: dict[str, Tensor] = {}
        self._limit = limit
        self._progress = progress
        self._names = {_place(tensor): name for name, tensor in model.chips[0].uploaded.items()}
        self._weight, self._stage = "no weight", "first use"
        self._is_reading = False

    def followed(self, stage: Stage) -> Stage:
        """Returns a stage that also tells this layer where the chunk is."""

        def followed(name: str) -> Any:
            self._stage = name
            return stage(name)

        return followed

    def __call__(self, call: Call, proceed: Proceed) -> Any:
        """Returns what the call returns, having compared what it wrote."""
        if self._is_reading or call.operation is None or call.name in NOT_COMPARED:
            return proceed(*call.args, **call.kwargs)
        for tensor in board_tensors([*call.args, *call.kwargs.values()]):
            self._weight = self._names.get(_place(tensor), self._weight)
        before: dict[str, Tensor] = {}

        def read(tensor: Any) -> Tensor:
            value = before[f"input {len(before)}"] = self._read(tensor)
            return value

        try:
            golden = golden_call(call, read)
        except NotImplementedError:
            self.not_compared.add(call.name)
            return proceed(*call.args, **call.kwargs)
        outputs = proceed(*call.args, **call.kwargs)
        targets = written(call, outputs)
        for target, want in zip(targets, golden.values(targets), strict=True):
            self._add(golden.name, self._read(target).float(), want.float(), before)
        return outputs

    def _add(self, name: str, got: Tensor, want: Tensor, inputs: Mapping[str, Tensor]) -> None:
        comparison = compare(got, want, self._limit)
        result = OperationResult(len(self.results), self._stage, name, self._weight, tuple(got.shape), comparison)
        self.results.append(result)
        if comparison.verdict != "ok" and not self.worst:
            self.worst = {**inputs, "got": got, "want": want}
        self._progress(result)

    def _read(self, tensor: Any) -> Tensor:
        """Returns the value of a tensor, by calls that pass through the layers inside this one."""
        self._is_reading = True
        try:
            with followed_again():
                value: Tensor = ttnn.to_torch(tensor)
        finally:
            self._is_reading = False
        return value


def _place(tensor: Any) -> tuple[Any, int]:
    return (tensor.memory_config().buffer_type, tensor.buffer_address()) if on_board(tensor) else (None, id(tensor))
