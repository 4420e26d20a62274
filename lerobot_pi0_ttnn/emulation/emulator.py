"""Runs ttnn's calls on the mocked device and keeps the values of its tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import ttnn
from ttnn import decorators

from ..ttnn_api.hook import Call, Proceed, add_layer, remove_layer
from .goldens import GOLDENS
from .memory import ShadowMemory
from .storage import for_computing, on_board, rounded, value_of_host_tensor
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
        self._golden_input = decorators.to_torch_for_comparison

    def start(self) -> None:
        """Follows every call of ttnn from now on, and refuses trace capture."""
        ttnn.begin_trace_capture = _refuse_trace
        decorators.to_torch_for_comparison = self._value_for_golden
        add_layer(self, innermost=True)

    def stop(self) -> None:
        """Gives ttnn its own functions back."""
        remove_layer(self)
        decorators.to_torch_for_comparison = self._golden_input
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
                for output in _board_tensors(outputs):
                    self.memory.drop(output)
                return outputs
            return self._compute(call, proceed)

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

    def _compute(self, call: Call, proceed: Proceed) -> Any:
        golden = self._golden(call)
        # Before the real call, which may free its inputs (`ttnn.move`), or be given its output as an input.
        args, kwargs = self._golden_inputs(call)
        outputs = proceed(*call.args, **call.kwargs)
        targets = _board_tensors(outputs)
        if targets:
            results = _torch_tensors(golden(*args, **kwargs))
            if len(results) != len(targets):
                raise RuntimeError(
                    f"{call.name}: ttnn returned {len(targets)} tensors, its golden function {len(results)}"
                )
            for target, result in zip(targets, results, strict=True):
                self.memory.write(target, _fitted(call.name, rounded(result, target.dtype), tuple(target.shape)))
        return outputs

    def _golden(self, call: Call) -> Callable[..., Any]:
        golden: Callable[..., Any] | None = GOLDENS.get(call.name) or call.operation.golden_function
        if golden is None:
            raise NotImplementedError(
                f"{call.name}: the emulated board has no golden function for it: add one to "
                "lerobot_pi0_ttnn/emulation/goldens, or use another op"
            )
        return golden

    def _golden_inputs(self, call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs = {
            name: value
            for name, value in call.kwargs.items()
            if name not in ("queue_id", "cq_id") and not self._is_only_written(call, name, value)
        }
        prepare = decorators.default_preprocess_golden_function_inputs
        if call.name not in GOLDENS:
            prepare = call.operation.preprocess_golden_function_inputs or prepare
        return prepare(call.args, kwargs)  # type: ignore[no-any-return]

    def _is_only_written(self, call: Call, name: str, value: Any) -> bool:
        # Its former content is no input, and need not have a value.
        return on_board(value) and name in call.operation.output_tensor_kwarg_names

    def _value_for_golden(self, tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(tensor, torch.Tensor):
            return self._golden_input(tensor, *args, **kwargs)
        return for_computing(self.value(tensor))


def _refuse_trace(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError(
        "ttnn.begin_trace_capture: an emulated board cannot capture a trace (the mocked device would end the process): "
        "run the operations eagerly, or use a card or the ttsim simulator"
    )


def _leaves(values: Any, of: type) -> list[Any]:
    if isinstance(values, of):
        return [values]
    if isinstance(values, (list, tuple)):
        return [leaf for value in values for leaf in _leaves(value, of)]
    return []


_torch_tensors = partial(_leaves, of=torch.Tensor)


def _board_tensors(outputs: Any) -> list[Any]:
    return [tensor for tensor in _leaves(outputs, ttnn.Tensor) if on_board(tensor)]


def _fitted(name: str, value: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns `value` in `shape`. Golden functions are free with dimensions of size 1, and with no others."""
    if [size for size in value.shape if size != 1] != [size for size in shape if size != 1]:
        raise RuntimeError(f"{name}: ttnn returned shape {shape}, its golden function {tuple(value.shape)}")
    return value.reshape(shape)
