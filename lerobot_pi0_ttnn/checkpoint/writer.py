"""Writing a safetensors file tensor by tensor: `safetensors.torch.save_file` wants the whole model in memory."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

Header = tuple[str, tuple[int, ...]]
"""Dtype, as safetensors spells it, and shape."""

DTYPES = {
    "F64": torch.float64,
    "I64": torch.int64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def write_safetensors(path: Path, headers: Mapping[str, Header], take: Callable[[str], Tensor]) -> None:
    """Writes a safetensors file; it appears whole or not at all, and one tensor at a time is in memory.

    Args:
        path: the file.
        headers: dtype and shape of each tensor by name; taken and written in this order, wider dtypes first.
        take: returns a tensor by name.

    Raises:
        ValueError: a dtype that this does not write, or a tensor that is not as its header says.
    """
    unknown = sorted({dtype for dtype, _ in headers.values()} - DTYPES.keys())
    if unknown:
        raise ValueError(f"{path}: cannot write {', '.join(unknown)}, only {', '.join(DTYPES)}.")
    # The widest first: then each tensor lies at a multiple of its own width.
    names = sorted(headers, key=lambda name: -DTYPES[headers[name][0]].itemsize)
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        dtype, shape = headers[name]
        start, end = end, end + torch.Size(shape).numel() * DTYPES[dtype].itemsize
        described[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(described).encode()
    header += b" " * (-len(header) % 8)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with (
            partial.open("wb") as file,
            tqdm(total=end, unit="B", unit_scale=True, desc=f"Writing {path.name}", delay=2) as bar,
        ):
            file.write(len(header).to_bytes(8, "little"))
            file.write(header)
            for name in names:
                tensor = take(name)
                dtype, shape = headers[name]
                if tensor.dtype != DTYPES[dtype] or tuple(tensor.shape) != shape:
                    raise ValueError(f"{name}: expected {shape} {dtype}, got {tuple(tensor.shape)} {tensor.dtype}.")
                file.write(memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy()))
                bar.update(tensor.nbytes)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)
