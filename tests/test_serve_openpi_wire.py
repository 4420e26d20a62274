"""openpi's messages, against what openpi's own `openpi-client` 0.1.2 packed (with NumPy 1.26 and msgpack 1.2)."""

import pickle

import msgpack
import numpy as np
import pytest

from lerobot_pi0_ttnn.cli.serve.openpi.wire import pack, unpack

RECORDED = {
    # name: (message, what `openpi_client.msgpack_numpy.packb(message).hex()` gave)
    "uint8": (
        np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
        "84c40b5f5f6e6461727261795f5fc3c40464617461c406000102030405c4056474797065a37c7531c405736861706593010203",
    ),
    "float64": (
        np.array([0.5, -2.0]),
        "84c40b5f5f6e6461727261795f5fc3c40464617461c410000000000000e03f00000000000000c0c4056474797065a33c6638c405736861706591"
        "02",
    ),
    "columns first": (
        np.asfortranarray(np.arange(4, dtype=np.int16).reshape(2, 2)),
        "84c40b5f5f6e6461727261795f5fc3c40464617461c4080000010002000300c4056474797065a33c6932c4057368617065920202",
    ),
    "no dimension": (
        np.array(7, dtype=np.int64),
        "84c40b5f5f6e6461727261795f5fc3c40464617461c4080700000000000000c4056474797065a33c6938c405736861706590",
    ),
    "empty": (
        np.zeros((0, 3), np.float32),
        "84c40b5f5f6e6461727261795f5fc3c40464617461c400c4056474797065a33c6634c4057368617065920003",
    ),
    "booleans": (
        np.array([True, False]),
        "84c40b5f5f6e6461727261795f5fc3c40464617461c4020100c4056474797065a37c6231c40573686170659102",
    ),
    "a float": (
        np.float32(1.5),
        "83c40d5f5f6e7067656e657269635f5fc3c40464617461cb3ff8000000000000c4056474797065a33c6634",
    ),
    "a boolean": (np.bool_(True), "83c40d5f5f6e7067656e657269635f5fc3c40464617461c3c4056474797065a37c6231"),
    "text": ("put the cube", "ac707574207468652063756265"),
    "bytes": (b"put the cube", "c40c707574207468652063756265"),
    "nested": (
        {"images": {"cam_high": np.zeros((3, 1, 1), np.uint8)}, "state": [1.0, 2], "prompt": None},
        "83a6696d6167657381a863616d5f6869676884c40b5f5f6e6461727261795f5fc3c40464617461c403000000c4056474797065a37c7531c40573"
        "6861706593030101a5737461746592cb3ff000000000000002a670726f6d7074c0",
    ),
    "DROID's": (
        {
            "observation/joint_position": np.arange(7) / 8,
            "observation/gripper_position": np.array([0.25]),
            "prompt": "do something",
        },
        "83ba6f62736572766174696f6e2f6a6f696e745f706f736974696f6e84c40b5f5f6e6461727261795f5fc3c40464617461c43800000000000000"
        "00000000000000c03f000000000000d03f000000000000d83f000000000000e03f000000000000e43f000000000000e83fc4056474797065a33c"
        "6638c40573686170659107bc6f62736572766174696f6e2f677269707065725f706f736974696f6e84c40b5f5f6e6461727261795f5fc3c40464"
        "617461c408000000000000d03fc4056474797065a33c6638c40573686170659101a670726f6d7074ac646f20736f6d657468696e67",
    ),
}


@pytest.mark.parametrize(("message", "recorded"), RECORDED.values(), ids=RECORDED)
def test_byte_for_byte(message, recorded):
    assert pack(message).hex() == recorded
    got = unpack(bytes.fromhex(recorded))
    assert type(got) is type(message)
    np.testing.assert_equal(got, message)
    if isinstance(message, np.ndarray | np.generic):
        assert got.dtype == message.dtype


REFUSED = {
    "objects": np.array([{}], dtype=object),
    "complex": np.array([1j]),
    "structures": np.zeros(2, dtype=[("x", "f4")]),
    "a complex number": np.complex64(1j),
}


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_no_message_holds(value):
    with pytest.raises(ValueError, match="unsupported dtype"):
        pack({"state": value})


def test_no_message_holds_anything_else():
    with pytest.raises(TypeError, match="a message cannot hold a set"):
        pack({1, 2})


def array(data: object, dtype: object, shape: object) -> bytes:
    return msgpack.packb({b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape})


NO_MESSAGES = {
    "no bytes": b"",
    "garbage": b"\xc1\xff\x00garbage",
    "pickle": pickle.dumps({"state": 1.0}),
    "two messages": pack(1) + pack(2),
    "cut short": pack(np.zeros(5))[:-9],
    "very deep": b"\x91" * 100_000,
    "objects": array(b"\0" * 8, "|O", [1]),
    "structures": array(b"\0" * 8, "f4,f4", [1]),
    "complex": array(b"\0" * 8, "<c8", [1]),
    "no dtype": array(b"\0" * 8, "float99", [1]),
    "fewer bytes than its shape": array(b"\0" * 8, "<f8", [1 << 40]),
    "more bytes than its shape": array(b"\0" * 8, "<f4", [1]),
    "a negative shape": array(b"\0" * 8, "<f8", [-1]),
    "text of no length": array(b"", "<U0", [1 << 40]),
    "no shape": array(b"\0" * 8, "<f8", None),
    "no data": array(None, "<f8", [1]),
    "nothing but the mark": msgpack.packb({b"__ndarray__": True}),
    "a scalar that is none": msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}),
    "a scalar out of range": msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}),
}


@pytest.mark.parametrize("data", NO_MESSAGES.values(), ids=NO_MESSAGES)
def test_what_is_no_message(data):
    with pytest.raises(ValueError, match=r"not a message of openpi's protocol"):
        unpack(data)
