"""What ttnn dispatches to the board: its device operations, from its own graph capture.

A call into ttnn may be several of them (a matmul whose activation is not fused), or none (a view). The bytes are those of the
tensors that a device operation is handed and makes, as stored: each tensor counts once for an operation, and as a whole, also
where it reads or writes a part of it (an embedding table, a cache).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from ..tt.blocking import Blocks
from ..ttnn_api.hook import Call, Proceed, add_layer, remove_layer
from ..ttnn_api.own_program import OwnProgram

COMPUTE_CONFIG = re.compile(r"math_fidelity=(\w+),.*?fp32_dest_acc_en=(\d)")
"""How ttnn prints a `ComputeKernelConfig` and, of `generic_op`, a `ComputeConfigDescriptor`."""

FUNCTION = re.compile(r"op_type=UnaryOpType::(\w+),param={(.*?)}")
"""How ttnn prints a function of the vector unit and its parameters."""

Place = tuple[str, int]
"""Where a tensor lies: `DRAM` or `L1`, and its address. Tensors that live together differ in it."""


@dataclass(frozen=True)
class Operand:
    """A tensor that a device operation was handed.

    Attributes:
        shape: its logical shape.
        dtype: as ttnn spells it (`BFLOAT8_B`).
        shards: cores that have it in their L1, whole columns each; 0 where it is interleaved.
    """

    shape: tuple[int, ...]
    dtype: str
    shards: int = 0


@dataclass(frozen=True)
class DeviceOperation:
    """One program that the board ran.

    Attributes:
        name: ttnn's: `Matmul`, `LayerNorm`, `BinaryNg`.
        inputs: bytes of each tensor that it was handed, in order.
        outputs: bytes of each tensor that it made.
        operands: what each of the inputs is.
        program: the class of the program that ttnn chose, `MatmulMultiCoreReuseMcast1DProgramFactory`.
        fidelity: of the multiplier, as ttnn spells it (`HiFi2`); None for an operation without a choice.
        accumulates_float32: what it adds up is float32.
        compute: fidelity and `accumulates_float32` of each of its compute kernels, of which our own programs may have several.
        chunks: queries and keys that attention takes at a time; None for any other operation.
        blocks: how a matmul was told to cut itself up; None where ttnn chose, and for any other operation.
        own: the program of our own that a `GenericOp` is; None for any other operation.
        heads: of queries, keys and values that a split into heads makes; 0 for any other operation.
        centred: the mean is taken off, as a layer norm does and an RMS norm does not.
        functions: that are applied to each tile of the result, or of an operand, as ttnn spells them, with their parameters
            (`SILU`, `GELU_TANH(1)`).
    """

    name: str
    inputs: dict[Place, int]
    outputs: dict[Place, int]
    operands: dict[Place, Operand] = field(default_factory=dict)
    program: str = ""
    fidelity: str | None = None
    accumulates_float32: bool = False
    compute: frozenset[tuple[str, bool]] = frozenset()
    chunks: tuple[int, int] | None = None
    blocks: Blocks | None = None
    own: OwnProgram | None = None
    heads: int = 0
    centred: bool = False
    functions: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Its name for people to read: that of our own program, or ttnn's."""
        return self.own.name if self.own else self.name


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
    graph, programs = Graph(), _Programs()
    add_layer(programs)
    capture.begin_graph_capture(ttnn.graph.RunMode.NORMAL)
    try:
        yield graph
    finally:
        nodes = capture.end_graph_capture()
        remove_layer(programs)
    matmuls, own = iter(programs.matmuls), iter(programs.own)
    for operation in device_operations(nodes):
        if operation.name == "Matmul":
            blocks, functions = next(matmuls)
            operation = replace(operation, blocks=blocks, functions=functions)
        elif operation.name == "GenericOp":
            operation = replace(operation, own=next(own))
        graph.operations.append(operation)


class _Programs:
    """Reads the programs that matmuls and `generic_op` are given, in order: ttnn's capture does not print them."""

    def __init__(self) -> None:
        self.matmuls: list[tuple[Blocks | None, tuple[str, ...]]] = []
        self.own: list[OwnProgram | None] = []

    def __call__(self, call: Call, proceed: Proceed) -> Any:
        result = proceed(*call.args, **call.kwargs)
        if call.name in ("ttnn.linear", "ttnn.matmul"):
            config = call.kwargs.get("program_config")
            self.matmuls.append((_blocks(config), _functions(config)))
        elif call.name == "ttnn.generic_op":
            self.own.append(call.program)
        return result


def _blocks(config: Any) -> Blocks | None:
    if config is None:
        return None
    size = config.compute_with_storage_grid_size
    return Blocks(
        grid=(size.x, size.y),
        rows=config.per_core_M,
        columns=config.per_core_N,
        inner=config.in0_block_w,
        subblock=(config.out_subblock_h, config.out_subblock_w),
        is_2d=not hasattr(config, "mcast_in0"),
        passes=config.per_core_N // config.out_block_w,
    )


def _functions(config: Any) -> tuple[str, ...]:
    """Returns what a matmul applies to what it accumulated, as it was told; ttnn may choose to, which nobody sees."""
    fused = getattr(config, "fused_activation", None)
    return (_function(fused.op_type.name, ", ".join(f"{value:g}" for value in fused.params)),) if fused else ()


def _function(name: str, parameters: str) -> str:
    return f"{name}({parameters})" if parameters else name


def summary(operations: Iterable[DeviceOperation]) -> dict[str, dict[str, int]]:
    """Returns `count`, `bytes_in` and `bytes_out` by title of the operation, the most frequent first."""
    table: dict[str, dict[str, int]] = {}
    for operation in operations:
        row = table.setdefault(operation.title, {"count": 0, "bytes_in": 0, "bytes_out": 0})
        row["count"] += 1
        row["bytes_in"] += sum(operation.inputs.values())
        row["bytes_out"] += sum(operation.outputs.values())
    return dict(sorted(table.items(), key=lambda item: (-item[1]["count"], item[0])))


@dataclass
class _Frame:
    node: dict[str, Any]
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
            frames.append(_Frame(node))
        elif kind == "program_execution":
            frames[-1].programs += 1
        elif kind == "buffer_allocate" and frames:
            frames[-1].made[params["type"], int(params["address"])] = int(params["size"])
        elif kind == "function_end":
            frame = frames.pop()
            if frame.programs:
                handed = [(*placed(number), tensors[number]) for number in frame.node["input_tensors"]]
                name = params["name"].removesuffix("Operation").removesuffix("Device")
                results = {int(tensors[each]["address"]) for each in node["connections"] if each in tensors}
                # A result that was given comes last, and is written, not read. Of our own programs all results are.
                if name != "GenericOp" and not frame.made and handed and handed[-1][0][1] in results:
                    place, size, _ = handed.pop()
                    frame.made[place] = size
                operation = DeviceOperation(
                    name=name,
                    inputs={place: size for place, size, _ in handed},
                    outputs=frame.made,
                    operands={place: _operand(tensor) for place, _, tensor in handed},
                    program=frame.node["params"].get("program_factory_type", "").rpartition("::")[2],
                    **_attributes(" ".join(frame.node["arguments"])),
                )
                operations += [operation] * frame.programs
            elif frames:
                frames[-1].made |= frame.made
    return operations


def _operand(tensor: dict[str, Any]) -> Operand:
    shape = tuple(int(size) for size in re.findall(r"\d+", tensor["shape"]))
    sharded = re.search(r"WIDTH_SHARDED,.*?shard_spec=ShardSpec\{grid=.*?shape=\[\d+, (\d+)\]", tensor["memory_config"])
    shards = -(-shape[-1] // int(sharded.group(1))) if sharded else 0
    return Operand(shape, tensor["dtype"].removeprefix("DataType::"), shards)


def _attributes(arguments: str) -> dict[str, Any]:
    """What ttnn prints of an operation's attributes, as far as it says how long the operation takes."""
    compute = [(fidelity, float32 == "1") for fidelity, float32 in COMPUTE_CONFIG.findall(arguments)]
    fidelity, accumulates_float32 = compute[0] if compute else (None, False)
    chunks = re.search(r"SDPAProgramConfig\([^,]+, [^,]+, (\d+), (\d+),", arguments)
    heads = re.match(r"operation_attributes_t\((\d+), (\d+), \d+,", arguments)
    return {
        "fidelity": fidelity,
        "accumulates_float32": accumulates_float32,
        "compute": frozenset(compute),
        "chunks": (int(chunks.group(1)), int(chunks.group(2))) if chunks else None,
        "heads": int(heads.group(1)) + 2 * int(heads.group(2)) if heads else 0,
        "centred": "LayerNormType::LAYERNORM" in arguments,
        "functions": tuple(_function(*found) for found in FUNCTION.findall(arguments)),
    }
