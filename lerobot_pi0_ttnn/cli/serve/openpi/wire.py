"""openpi's messages: msgpack, with NumPy's arrays and scalars as maps, byte for byte as `openpi_client.msgpack_numpy` has them.

Nothing in a message is executed: no pickle, and none of the dtypes that would need one.
"""

import math
from typing import Any

import msgpack
import numpy as np

ARRAY, SCALAR = b"__ndarray__", b"__npgeneric__"
REFUSED_KINDS = "VOc"
"""Of dtypes: structures, Python objects and complex numbers."""


def pack(message: Any) -> bytes:
    """Returns a message as it goes over the wire.

    Args:
        message: what msgpack takes (None, bool, int, float, str, bytes, sequences, dicts), and NumPy's arrays and scalars.

    Raises:
        ValueError: an array of structures, objects or complex numbers.
        TypeError: something else that no message can hold.
    """
    packed: bytes = msgpack.packb(message, default=_as_map)
    return packed


def unpack(data: bytes) -> Any:
    """Returns the message that was packed; its arrays lie in `data` and are read-only, its sequences are lists.

    Raises:
        ValueError: these are not the bytes of one message, or an array in it is not what it says.
    """
    try:
        return msgpack.unpackb(data, object_hook=_from_map)
    except (msgpack.UnpackException, ValueError, TypeError, KeyError, OverflowError) as error:
        raise ValueError(
            f"not a message of openpi's protocol, msgpack with NumPy's arrays ({type(error).__name__}: {error})."
        ) from error


def _as_map(value: Any) -> dict[bytes, Any]:
    if isinstance(value, np.ndarray):
        _check_dtype(value.dtype)
        return {ARRAY: True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        _check_dtype(value.dtype)
        return {SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"a message cannot hold a {type(value).__name__}.")


def _from_map(value: dict[Any, Any]) -> Any:
    if ARRAY not in value and SCALAR not in value:
        return value
    dtype = np.dtype(str(value[b"dtype"]))
    _check_dtype(dtype)
    if SCALAR in value:
        return dtype.type(value[b"data"])
    data, shape = value[b"data"], tuple(value[b"shape"])
    is_shape = all(isinstance(length, int) and length >= 0 for length in shape)
    # NumPy takes a negative length, and makes up the data that it is not given.
    if not (isinstance(data, bytes) and is_shape and dtype.itemsize and math.prod(shape) * dtype.itemsize == len(data)):
        size = len(data) if isinstance(data, bytes) else type(data).__name__
        raise ValueError(f"an array of shape {shape} and dtype {dtype} is not of {size} bytes")
    return np.ndarray(shape, dtype, data)


def _check_dtype(dtype: np.dtype[Any]) -> None:
    if dtype.kind in REFUSED_KINDS:
        raise ValueError(f"unsupported dtype {dtype}: send numbers, booleans or text")
