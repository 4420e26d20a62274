"""A call of ttnn and the golden function that says what it computes: on emulated boards, and to check a card's by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import ttnn
from ttnn import decorators

from ..ttnn_api.hook import Call
from .goldens import GOLDENS
from .storage import for_computing, on_board, rounded

Read = Callable[[Any], torch.Tensor]
"""Returns the value of a ttnn tensor, on the board or on the host."""


@dataclass(frozen=True)
class GoldenCall:
    """What a call computes, with its inputs as they were before it: it may free or overwrite them.

    Attributes:
        name: of the call.
        golden: the function.
        args: for it.
        kwargs: for it.
    """

    name: str
    golden: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def values(self, targets: Sequence[Any]) -> list[torch.Tensor]:
        """Returns the value of each tensor that ttnn has written, in its shape, rounded to its dtype (shadow dtype).

        Args:
            targets: those tensors, see `written`.

        Raises:
            RuntimeError: the golden function returns another number of tensors, or other shapes.
        """
        results = _torch_tensors(self.golden(*self.args, **self.kwargs))
        if len(results) != len(targets):
            raise RuntimeError(f"{self.name}: ttnn returned {len(targets)} tensors, its golden function {len(results)}")
        pairs = zip(targets, results, strict=True)
        return [_fitted(self.name, rounded(result, target.dtype), tuple(target.shape)) for target, result in pairs]


def golden_call(call: Call, read: Read) -> GoldenCall:
    """Returns what `call`, which is about to be made, will compute.

    Args:
        call: of an operation, or of a program of our own.
        read: reads its inputs.

    Raises:
        NotImplementedError: there is no golden function for it.
    """
    if call.program is not None:
        tensors, descriptor = call.argument(0, "io_tensors"), call.argument(1, "program_descriptor")
        values = [for_computing(read(tensor)) for tensor in tensors]
        return GoldenCall(call.program.name, call.program.golden, (values, descriptor), {})
    golden: Callable[..., Any] | None = GOLDENS.get(call.name) or call.operation.golden_function
    if golden is None:
        raise NotImplementedError(
            f"{call.name}: the emulated board has no golden function for it: add one to "
            "lerobot_pi0_ttnn/emulation/goldens, or use another op"
        )
    return GoldenCall(call.name, golden, *_inputs(call, read))


def written(call: Call, outputs: Any) -> list[Any]:
    """Returns the tensors on the board that a call has written.

    Args:
        call: that was made.
        outputs: what it returned.
    """
    if call.program is not None:
        return list(call.argument(0, "io_tensors")[-call.program.writes :])
    return board_tensors(outputs)


def board_tensors(values: Any) -> list[Any]:
    """Returns the tensors on the board in nested lists and tuples."""
    return [tensor for tensor in _leaves(values, ttnn.Tensor) if on_board(tensor)]


def _inputs(call: Call, read: Read) -> tuple[tuple[Any, ...], dict[str, Any]]:
    kwargs = {
        name: value
        for name, value in call.kwargs.items()
        if name not in ("queue_id", "cq_id") and not _is_only_written(call, name, value)
    }
    prepare = decorators.default_preprocess_golden_function_inputs
    if call.name not in GOLDENS:
        prepare = call.operation.preprocess_golden_function_inputs or prepare
    ttnns_own = decorators.to_torch_for_comparison

    def value(tensor: Any, *args: Any, **options: Any) -> Any:
        if isinstance(tensor, torch.Tensor):
            return ttnns_own(tensor, *args, **options)
        return for_computing(read(tensor))

    # What prepares an operation's inputs reads them by this function of ttnn's.
    decorators.to_torch_for_comparison = value
    try:
        return prepare(call.args, kwargs)  # type: ignore[no-any-return]
    finally:
        decorators.to_torch_for_comparison = ttnns_own


def _is_only_written(call: Call, name: str, value: Any) -> bool:
    # Its former content is no input, and need not have a value.
    return on_board(value) and name in call.operation.output_tensor_kwarg_names


def _leaves(values: Any, of: type) -> list[Any]:
    if isinstance(values, of):
        return [values]
    if isinstance(values, (list, tuple)):
        return [leaf for value in values for leaf in _leaves(value, of)]
    return []


_torch_tensors = partial(_leaves, of=torch.Tensor)


def _fitted(name: str, value: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns `value` in `shape`. Golden functions are free with dimensions of size 1, and with no others."""
    if [size for size in value.shape if size != 1] != [size for size in shape if size != 1]:
        raise RuntimeError(f"{name}: ttnn returned shape {shape}, its golden function {tuple(value.shape)}")
    return value.reshape(shape)
