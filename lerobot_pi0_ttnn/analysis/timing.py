"""Every distinct operation of a chunk timed on its own, as a short trace, beside what the cost model predicts for it.

An operation is distinct by what ttnn dispatches for it: name, operands, program, fidelity, blocks. A trace repeats it back to
back, as a chunk's own trace has it, so that the time is from one operation to the next, the gap included. Two traces of
unlike length are replayed, and the difference counts: what it takes to start one and to wait for its end is in both.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from typing import Any

import ttnn
from torch import Tensor

from ..device.executor import PI0ModelTTNN
from ..emulation.golden_call import board_tensors
from ..latency import Stage, untimed
from ..model.observation import Observation
from ..ttnn_api.hook import Call, Proceed, add_layer, followed_again, remove_layer
from .cost import Machine, cost
from .graph import DeviceOperation, captured
from .operations import NOT_COMPARED
from .prediction import described

REPEATS = 32
"""Calls in the shorter trace; the longer one has three times as many."""
ROUNDS = 5
"""Replays of each trace, of which the fastest counts: whatever disturbs one only makes it slower."""

FIRST_USE = "first use"
NOT_EACH = {FIRST_USE, "upload"}
"""Stages whose operations are those of a new prompt, not of each chunk."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class TimedOperation:
    """One distinct operation of a chunk.

    Attributes:
        what: name and shapes, for people.
        stage: in which it is first dispatched: `vision`, `prefill`, `step 1`.
        count: how often a chunk dispatches it.
        operations: what ttnn dispatches for one call of it, nearly always one.
        seconds: that one call takes, from its begin to that of the next.
        predicted: likewise, by the cost model.
    """

    what: str
    stage: str
    count: int
    operations: tuple[DeviceOperation, ...]
    seconds: float
    predicted: float

    @property
    def chunk_seconds(self) -> float:
        """Seconds of all its calls in a chunk."""
        return self.count * self.seconds

    @property
    def chunk_predicted(self) -> float:
        """Likewise, as predicted."""
        return self.count * self.predicted

    @property
    def saves(self) -> float:
        """Seconds of a chunk that it would save to be as fast as predicted; negative where it is faster."""
        return self.chunk_seconds - self.chunk_predicted

    @property
    def program(self) -> str:
        """What computes it, as ttnn or this package names it."""
        first = self.operations[0]
        return first.own.name if first.own else first.program.removesuffix("ProgramFactory")

    def as_json(self) -> dict[str, Any]:
        """Returns it for a report, in microseconds and milliseconds."""
        return {
            "operation": self.what,
            "program": self.program,
            "stage": self.stage,
            "count": self.count,
            "us": round(1e6 * self.seconds, 3),
            "predicted_us": round(1e6 * self.predicted, 3),
            "saves_ms": round(1e3 * self.saves, 4),
        }


def time_operations(
    model: PI0ModelTTNN,
    observation: Observation,
    noise: Tensor,
    on: Machine,
    *,
    clock: Clock = time.perf_counter,
    repeats: int = REPEATS,
    progress: Callable[[str], None] = lambda _: None,
) -> list[TimedOperation]:
    """Returns each distinct operation of a chunk, the one first that would save most.

    The model has forgotten its contexts and traces afterwards.

    Args:
        model: on a board that can trace.
        observation: of one row.
        noise: (1, horizon, action_dim) float32.
        on: what the board is, for the predictions.
        clock: seconds.
        repeats: see `REPEATS`.
        progress: called with each distinct operation, before it is timed.
    """
    timer = _Timer(model, clock, repeats, progress)
    model.forget()
    model.eager = True
    add_layer(timer)
    try:
        # All steps are alike: one is walked, and counts as often as there are steps.
        model.sample_actions(observation, noise=noise, num_steps=1, stage=timer.followed(untimed))
    finally:
        remove_layer(timer)
        model.eager = False
        model.forget()
    timed = []
    for key, operations in timer.operations.items():
        stage = timer.stages[key]
        predicted = sum(cost(operation, on).seconds for operation in operations)
        what = " + ".join(described(operation) for operation in operations)
        timed.append(TimedOperation(what, stage, timer.counts[key], operations, timer.seconds[key], predicted))
    return sorted(timed, key=lambda each: -each.saves)


class _Timer:
    """A layer around ttnn's calls that times each operation the first time it comes by, and counts it from then on."""

    def __init__(self, model: PI0ModelTTNN, clock: Clock, repeats: int, progress: Callable[[str], None]) -> None:
        self.operations: dict[Hashable, tuple[DeviceOperation, ...]] = {}
        self.seconds: dict[Hashable, float] = {}
        self.counts: dict[Hashable, int] = {}
        self.stages: dict[Hashable, str] = {}
        self._device, self._steps = model.chips[0].device, model.config.num_steps
        self._clock, self._repeats, self._progress = clock, repeats, progress
        self._stage = FIRST_USE
        self._is_inside = False

    def followed(self, stage: Stage) -> Stage:
        """Returns a stage that also tells this layer where the chunk is."""

        def followed(name: str) -> Any:
            self._stage = name
            return stage(name)

        return followed

    def __call__(self, call: Call, proceed: Proceed) -> Any:
        """Returns what the call returns, having timed it where it is new."""
        if self._is_inside or self._stage in NOT_EACH or call.operation is None or call.name in NOT_COMPARED:
            return proceed(*call.args, **call.kwargs)
        given = {_place(tensor) for tensor in board_tensors([*call.args, *call.kwargs.values()])}

        def run() -> Any:
            return call.operation(*call.args, **call.kwargs)

        def free(outputs: Any) -> None:
            for tensor in board_tensors(outputs):
                if _place(tensor) not in given:
                    ttnn.deallocate(tensor)

        self._is_inside = True
        try:
            # Through the other layers again, those of the capture among them.
            with followed_again():
                with captured() as graph:
                    outputs = run()
                if graph.operations and (key := self._counted(tuple(graph.operations))) not in self.seconds:
                    # Its output makes room for those of the traces: L1 may not hold two.
                    free(outputs)
                    self.seconds[key] = self._timed(lambda: free(run()))
                    outputs = run()
        finally:
            self._is_inside = False
        return outputs

    def _counted(self, operations: tuple[DeviceOperation, ...]) -> Hashable:
        """Returns the key of an operation that came by."""
        key = tuple(distinct(operation) for operation in operations)
        times = self._steps if self._stage.startswith("step") else 1
        self.counts[key] = self.counts.get(key, 0) + times
        if key not in self.operations:
            self._progress(" + ".join(described(operation) for operation in operations))
            self.operations[key], self.stages[key] = operations, self._stage
        return key

    def _timed(self, run: Callable[[], None]) -> float:
        """Returns the seconds that one of many calls in a row takes."""
        short, long = (self._replayed(run, count) for count in (self._repeats, 3 * self._repeats))
        return max(0.0, long - short) / (2 * self._repeats)

    def _replayed(self, run: Callable[[], None], count: int) -> float:
        """Returns the seconds that a trace of so many calls takes, from its start to the end of the wait for it."""
        device, took = self._device, []
        trace = ttnn.begin_trace_capture(device, cq_id=0)
        try:
            for _ in range(count):
                run()
        finally:
            ttnn.end_trace_capture(device, trace, cq_id=0)
        try:
            for _ in range(1 + ROUNDS):
                start = self._clock()
                ttnn.execute_trace(device, trace, cq_id=0, blocking=False)
                ttnn.synchronize_device(device)
                took.append(self._clock() - start)
        finally:
            ttnn.release_trace(device, trace)
        return min(took[1:])


def distinct(operation: DeviceOperation) -> Hashable:
    """Returns what tells an operation from others as far as its time goes: all but where its tensors lie."""
    placed = ("inputs", "outputs", "operands")
    operands = zip(operation.inputs.items(), operation.operands.values(), strict=True)
    return (
        *(getattr(operation, field.name) for field in fields(operation) if field.name not in placed),
        tuple((memory, size, operand) for ((memory, _), size), operand in operands),
        tuple((memory, size) for (memory, _), size in operation.outputs.items()),
    )


def _place(tensor: Any) -> tuple[Any, int]:
    return tensor.memory_config().buffer_type, tensor.buffer_address()
