"""What ttnn dispatches to the board: its device operations, from its own graph capture.

A call into ttnn may be several of them (a matmul whose activation is not fused), or none (a view). The bytes are those of the
tensors that a device operation is handed and makes, as stored: each tensor counts once for an operation, and as a whole, also
where it reads or writes a part of it (an embedding table, a cache).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Place = tuple[str, int]
"""Where a tensor lies: `DRAM` or `L1`, and its address. Tensors that live together differ in it."""


@dataclass(frozen=True)
class DeviceOperation:
    """One program that the board ran.

    Attributes:
        name: ttnn's: `Matmul`, `LayerNorm`, `BinaryNg`.
        inputs: bytes of each tensor that it was handed, in order.
        outputs: bytes of each tensor that it made.
    """

    name: str
    inputs: dict[Place, int]
    outputs: dict[Place, int]


@dataclass(eq=False)
class Graph:
    """What was dispatched while a capture ran; filled when it ends."""

    operations: list[DeviceOperation] = field(default_factory=list)


@contextmanager
def captured() -> Iterator[Graph]:
    """Returns (as a context) the device operations dispatched inside it, on any kind of board. Captures do not nest."""
    import ttnn

    # Not `ttnn.graph.begin_graph_capture`, which warns that it leaves out what nobody needs here.
    capture = ttnn._ttnn.graph
    graph = Graph()
    capture.begin_graph_capture(ttnn.graph.RunMode.NORMAL)
    try:
        yield graph
    finally:
        nodes = capture.end_graph_capture()
    graph.operations += device_operations(nodes)


def summary(operations: Iterable[DeviceOperation]) -> dict[str, dict[str, int]]:
    """Returns `count`, `bytes_in` and `bytes_out` by name of the operation, the most frequent first."""
    table: dict[str, dict[str, int]] = {}
    for operation in operations:
        row = table.setdefault(operation.name, {"count": 0, "bytes_in": 0, "bytes_out": 0})
        row["count"] += 1
        row["bytes_in"] += sum(operation.inputs.values())
        row["bytes_out"] += sum(operation.outputs.values())
    return dict(sorted(table.items(), key=lambda item: (-item[1]["count"], item[0])))


@dataclass
class _Frame:
    name: str
    inputs: list[int]
    made: dict[Place, int] = field(default_factory=dict)
    programs: int = 0


def device_operations(nodes: list[dict[str, Any]]) -> list[DeviceOperation]:
    """Returns the device operations of a graph as ttnn captured it: the functions in which a program was executed."""
    tensors = {node["counter"]: node["params"] for node in nodes if node["node_type"] == "tensor"}
    buffers = {
        tensor: node["params"] for node in nodes if node["node_type"] == "buffer" for tensor in node["connections"]
    }

    def placed(number: int) -> tuple[Place, int]:
        tensor, buffer = tensors[number], buffers.get(number)
        if buffer is None:
            # A view: the capture knows neither its address nor how much of the buffer is padding.
            return ("view", number), int(tensor["size"])
        return (buffer["type"], int(tensor["address"])), int(buffer["size"])

    frames: list[_Frame] = []
    operations = []
    for node in nodes:
        kind, params = node["node_type"], node["params"]
        if kind == "function_start":
            frames.append(_Frame(params["name"], node["input_tensors"]))
        elif kind == "program_execution":
            frames[-1].programs += 1
        elif kind == "buffer_allocate" and frames:
            frames[-1].made[params["type"], int(params["address"])] = int(params["size"])
        elif kind == "function_end":
            frame = frames.pop()
            if frame.programs:
                name = frame.name.removesuffix("Operation").removesuffix("Device")
                inputs = dict(placed(number) for number in frame.inputs)
                operations += [DeviceOperation(name, inputs, frame.made)] * frame.programs
            elif frames:
                frames[-1].made |= frame.made
    return operations
