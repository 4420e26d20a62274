"""Calls that ttnn's operations do not cover: between host and board (bytes on one, a shadow on the other), and programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import ttnn

from ..ttnn_api.hook import Call, Proceed
from .golden_call import written
from .storage import BLOCK_FORMATS, host_tensor, on_board, rounded, value_of_host_tensor

if TYPE_CHECKING:
    from .emulator import Emulator


def _from_torch(emulator: Emulator, call: Call, proceed: Proceed) -> Any:
    if call.argument(0, "tensor") is None:
        return None
    if not emulator.follows_values:
        return _allocated(emulator, call)
    tensor = proceed(*call.args, **call.kwargs)
    if on_board(tensor):
        placement = ("device", "memory_config", "cq_id")
        on_host = proceed(*call.args, **{name: value for name, value in call.kwargs.items() if name not in placement})
        emulator.memory.write(tensor, value_of_host_tensor(on_host))
    return tensor


def _as_tensor(emulator: Emulator, call: Call, proceed: Proceed) -> Any:
    device, memory_config = call.kwargs.get("device"), call.kwargs.get("memory_config")
    if device is not None and memory_config is None:
        # For ttnn's own complaint.
        return proceed(*call.args, **call.kwargs)
    if not emulator.follows_values:
        return _allocated(emulator, call)
    # On a cache hit ttnn uploads by calls that no layer sees.
    on_host = proceed(*call.args, **{**call.kwargs, "device": None})
    if device is None:
        return on_host
    return _uploaded(emulator, on_host, ttnn.to_device(on_host, device, memory_config=memory_config))


def _allocated(emulator: Emulator, call: Call) -> Any:
    """Returns a tensor like that of `ttnn.from_torch` or `ttnn.as_tensor`, of which nothing but its spec is right."""
    device = call.kwargs.get("device")
    allocate = ttnn.allocate_tensor_on_host if device is None else ttnn.allocate_tensor_on_device
    # A tensor on the host has the shape of a device, too: they are all alike in it.
    device = emulator.devices[0] if device is None else device
    if call.kwargs.get("spec") is not None:
        return allocate(call.kwargs["spec"], device)
    if call.kwargs.get("tile") is not None or call.kwargs.get("col_tilize"):
        raise NotImplementedError(f"{call.name}: `tile` and `col_tilize` are not followed by shapes_only()")
    source = call.argument(0, "tensor")
    preprocess = call.kwargs.get("preprocess")
    source = preprocess(source) if preprocess else source
    dtype = call.argument(1, "dtype")
    dtype = ttnn.from_torch(torch.zeros(1, dtype=source.dtype)).dtype if dtype is None else dtype
    layout = call.kwargs.get("layout")
    if layout is None:
        layout = ttnn.TILE_LAYOUT if dtype in BLOCK_FORMATS else ttnn.ROW_MAJOR_LAYOUT
    memory_config = call.kwargs.get("memory_config") or ttnn.DRAM_MEMORY_CONFIG
    return allocate(ttnn.Shape(list(source.shape)), dtype, layout, device, memory_config)


def _to_device(emulator: Emulator, call: Call, proceed: Proceed) -> Any:
    return _uploaded(emulator, call.argument(0, "tensor"), proceed(*call.args, **call.kwargs))


def _uploaded(emulator: Emulator, source: Any, tensor: Any) -> Any:
    if on_board(tensor) and not on_board(source):
        if emulator.follows_values:
            emulator.memory.write(tensor, value_of_host_tensor(source))
        else:
            emulator.memory.drop(tensor)
    return tensor


def _copy_host_to_device(emulator: Emulator, call: Call, proceed: Proceed) -> Any:
    result = proceed(*call.args, **call.kwargs)
    _uploaded(emulator, call.argument(0, "host_tensor"), call.argument(1, "device_tensor"))
    return result


def _load_tensor(emulator: Emulator, call: Call, proceed: Proceed) -> Any:
    on_host = proceed(*call.args, **{**call.kwargs, "device": None})
    device = call.kwargs.get("device")
    return on_host if device is None else _uploaded(emulator, on_host, ttnn.to_device(on_host, device))


def _empty(emulator: Emulator, call: Call, proceed: Proceed) -> Any:
    tensor = proceed(*call.args, **call.kwargs)
    if on_board(tensor):
        if emulator.follows_values:
            # Whatever was there before: NaN does not go unnoticed.
            filler = torch.full(tuple(tensor.shape), float("nan"))
            emulator.memory.write(tensor, rounded(filler, tensor.dtype))
        else:
            emulator.memory.drop(tensor)
    return tensor


def _deallocate(emulator: Emulator, call: Call, proceed: Proceed) -> Any:
    tensor = call.argument(0, "tensor")
    on_device = on_board(tensor) and tensor.is_allocated()
    place = emulator.memory.place(tensor) if on_device else None
    result = proceed(*call.args, **call.kwargs)
    if place is not None and not tensor.is_allocated():
        emulator.memory.forget(place)
    return result


def _on_host(position: int, *names: str) -> Transfer:
    """Returns the rule of a call that reads the tensor at `position`: it is given that tensor on the host."""

    def read(emulator: Emulator, call: Call, proceed: Proceed) -> Any:
        tensor = call.argument(position, *names)
        if not on_board(tensor):
            return proceed(*call.args, **call.kwargs)
        copy = host_tensor(emulator.value(tensor), tensor)
        args = list(call.args)
        kwargs = dict(call.kwargs)
        if position < len(args):
            args[position] = copy
        else:
            kwargs[next(name for name in names if name in kwargs)] = copy
        return proceed(*args, **kwargs)

    return read


def _from_device(emulator: Emulator, call: Call, proceed: Proceed) -> Any:
    tensor = call.argument(0, "tensor", "input_tensor")
    return host_tensor(emulator.value(tensor), tensor) if on_board(tensor) else tensor


def _represented(emulator: Emulator, call: Call, proceed: Proceed) -> Any:
    (tensor,) = call.args
    if on_board(tensor) and not (emulator.follows_values and tensor.is_allocated()):
        return f"ttnn.Tensor(<on an emulated board, no value>, shape={tensor.shape}, dtype={tensor.dtype})"
    return _on_host(0)(emulator, call, proceed)


def _program(emulator: Emulator, call: Call, proceed: Proceed) -> Any:
    descriptor = call.argument(1, "program_descriptor")
    if call.program is None:
        raise NotImplementedError(
            f"{call.name}: the emulated board does not know what {descriptor.kernels[0].kernel_source} computes: run it by "
            "an `OwnProgram` (lerobot_pi0_ttnn/ttnn_api/own_program.py), which has its golden function"
        )
    if emulator.follows_values:
        return emulator.compute(call, proceed)
    result = proceed(*call.args, **call.kwargs)
    for tensor in written(call, result):
        emulator.memory.drop(tensor)
    return result


def _refused(emulator: Emulator, call: Call, proceed: Proceed) -> Any:
    raise NotImplementedError(f"{call.name}: not on an emulated board: use ttnn.to_torch or ttnn.from_device")


Transfer = Callable[["Emulator", Call, Proceed], Any]

TRANSFERS: dict[str, Transfer] = {
    "ttnn.from_torch": _from_torch,
    "ttnn.as_tensor": _as_tensor,
    "ttnn.to_device": _to_device,
    "ttnn.Tensor.to": _to_device,
    "ttnn.copy_host_to_device_tensor": _copy_host_to_device,
    "ttnn.load_tensor": _load_tensor,
    "ttnn.empty": _empty,
    "ttnn.empty_like": _empty,
    "ttnn.allocate_tensor_on_device": _empty,
    "ttnn.deallocate": _deallocate,
    "ttnn.generic_op": _program,
    "ttnn.from_device": _from_device,
    "ttnn.Tensor.cpu": _from_device,
    "ttnn.to_torch": _on_host(0, "tensor"),
    "ttnn.Tensor.to_torch": _on_host(0),
    "ttnn.Tensor.to_numpy": _on_host(0),
    "ttnn.Tensor.to_list": _on_host(0),
    "ttnn.Tensor.item": _on_host(0),
    "ttnn.Tensor.__repr__": _represented,
    "ttnn.dump_tensor": _on_host(1, "tensor"),
    "ttnn.copy_device_to_host_tensor": _refused,
    "ttnn.copy_host_to_device_tensor_partial": _refused,
    "ttnn.Tensor.to_torch_with_padded_shape": _refused,
}
"""Rules by call. Each runs inside its call, where ttnn's functions are ttnn's own."""
