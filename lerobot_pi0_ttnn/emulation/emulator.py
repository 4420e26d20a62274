"""Runs ttnn's calls on the mocked device and keeps the values of its tensors."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import ttnn

from ..ttnn_api.hook import Call, Proceed, add_layer, remove_layer
from .golden_call import board_tensors, golden_call, written
from .memory import ShadowMemory
from .storage import on_board, value_of_host_tensor
from .transfers import TRANSFERS


class Emulator:
    """A layer around ttnn (see `ttnn_api.hook`): ttnn runs the call for real, then a golden function says what it computed.

    Attributes:
        devices: The mocked device of each chip.
        memory: The values of the tensors on the mocked devices.
        follows_values: False while only shapes are followed: ttnn checks each call, and no value can be read.
    """

    def __init__(self, devices: Sequence[Any]) -> None:
        self.devices = list(devices)
        self.memory = ShadowMemory(self.devices)
        self.follows_values = True
        # ttnn itself is not meant for two threads at once, and a value has to be read before the next call frees it.
        self._lock = threading.RLock()
        self._begin_trace_capture = ttnn.begin_trace_capture

    def start(self) -> None:
        """Follows every call of ttnn from now on, and refuses trace capture."""
        ttnn.begin_trace_capture = _refuse_trace
        add_layer(self, innermost=True)

    def stop(self) -> None:
        """Gives ttnn its own functions back."""
        remove_layer(self)
        ttnn.begin_trace_capture = self._begin_trace_capture

    @contextmanager
    def shapes_only(self) -> Iterator[None]:
        """Computes no values inside the context: uploads take meta tensors as well, reading a value raises."""
        before, self.follows_values = self.follows_values, False
        try:
            yield
        finally:
            self.follows_values = before

    def __call__(self, call: Call, proceed: Proceed) -> Any:
        """Returns what the call returns, having given its outputs their values."""
        with self._lock:
            transfer = TRANSFERS.get(call.name)
            if transfer is not None:
                return transfer(self, call, proceed)
            if not self.follows_values:
                outputs = proceed(*call.args, **call.kwargs)
                for output in board_tensors(outputs):
                    self.memory.drop(output)
                return outputs
            return self.compute(call, proceed)

    def value(self, tensor: Any) -> torch.Tensor:
        """Returns the value of a tensor, in its shadow dtype; on the board it is not a copy."""
        if not on_board(tensor):
            return value_of_host_tensor(tensor)
        if not self.follows_values:
            raise RuntimeError(
                f"emulated board: the value of a tensor {tuple(tensor.shape)} was read while only shapes are followed: "
                "leave `shapes_only()` for what needs values"
            )
        return self.memory.read(tensor)

    def compute(self, call: Call, proceed: Proceed) -> Any:
        """Returns what the call returns, with the values of all that it wrote by its golden function."""
        # Before the real call, which may free its inputs (`ttnn.move`), or be given its output as an input.
        golden = golden_call(call, self.value)
        outputs = proceed(*call.args, **call.kwargs)
        targets = written(call, outputs)
        if targets:
            for target, value in zip(targets, golden.values(targets), strict=True):
                self.memory.write(target, value)
        return outputs


def _refuse_trace(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError(
        "ttnn.begin_trace_capture: an emulated board cannot capture a trace (the mocked device would end the process): "
        "run the operations eagerly, or use a card or the ttsim simulator"
    )
