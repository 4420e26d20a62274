"""The one place where ttnn's calls are wrapped: for counting them, and for the emulated board.

A layer sees each *outermost* call: `ttnn.to_torch` is one call, though it makes others inside. ttnn's operations share
one `__call__`, and a few tensor methods which move data are wrapped beside it. With no layer, ttnn is as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .own_program import OwnProgram

TENSOR_METHODS = ("cpu", "to", "to_torch", "to_torch_with_padded_shape", "to_numpy", "to_list", "item", "__repr__")
"""Methods of `ttnn.Tensor` that move data without passing through an operation."""

Proceed = Callable[..., Any]


@dataclass(frozen=True)
class Call:
    """One outermost call into ttnn.

    Attributes:
        name: `ttnn.linear`, `ttnn.experimental.rotary_embedding_hf`, `ttnn.Tensor.cpu`.
        args: As the caller gave them.
        kwargs: As the caller gave them.
        operation: ttnn's registered operation, or None for a tensor method.
        program: the program of our own that the call runs, or None.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    operation: Any = None
    program: OwnProgram | None = None

    def argument(self, position: int, *names: str, default: Any = None) -> Any:
        """Returns the argument at `position`, or the keyword argument of one of these names."""
        if position < len(self.args):
            return self.args[position]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)


Layer = Callable[[Call, Proceed], Any]
"""Gets the call and what it would do (`proceed(*args, **kwargs)`); returns what the caller shall see."""

_layers: tuple[Layer, ...] = ()
_originals: dict[str, Any] = {}
_installing = threading.Lock()
_thread = threading.local()


def add_layer(layer: Layer, *, innermost: bool = False) -> None:
    """Puts `layer` around every call of ttnn: outside the layers that are there, or inside them all."""
    global _layers
    with _installing:
        if not _layers:
            _install()
        _layers = (layer, *_layers) if innermost else (*_layers, layer)


def remove_layer(layer: Layer) -> None:
    """Takes `layer` away; with the last one ttnn gets its own functions back."""
    global _layers
    with _installing:
        _layers = tuple(other for other in _layers if other is not layer)
        if not _layers:
            _uninstall()


@contextmanager
def own_program(program: OwnProgram) -> Iterator[None]:
    """Gives the calls of this thread inside the context their `program`."""
    _thread.program = program
    try:
        yield
    finally:
        _thread.program = None


@contextmanager
def followed_again() -> Iterator[None]:
    """Lets what a layer asks of ttnn inside the context pass through all layers, that one included, as a call of its own."""
    before, _thread.inside = getattr(_thread, "inside", False), False
    try:
        yield
    finally:
        _thread.inside = before


def _install() -> None:
    import ttnn
    from ttnn import decorators

    if not ttnn.CONFIG.enable_fast_runtime_mode:
        raise RuntimeError(
            "ttnn runs in its slow runtime mode (TTNN_CONFIG_OVERRIDES or TTNN_CONFIG_PATH), where its calls cannot be "
            "followed: remove `enable_fast_runtime_mode: false`"
        )
    run = decorators.FastOperation.__call__

    def call_operation(operation: Any, *args: Any, **kwargs: Any) -> Any:
        program = getattr(_thread, "program", None)
        call = Call(operation.python_fully_qualified_name, args, kwargs, operation, program)
        return _outermost(call, partial(run, operation))

    _originals["__call__"] = run
    decorators.FastOperation.__call__ = call_operation
    for name in TENSOR_METHODS:
        _originals[name] = getattr(ttnn.Tensor, name)
        setattr(ttnn.Tensor, name, _followed_method(name, _originals[name]))


def _followed_method(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call_method(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        return _outermost(Call(f"ttnn.Tensor.{name}", (tensor, *args), kwargs), method)

    return call_method


def _outermost(call: Call, run: Proceed) -> Any:
    if getattr(_thread, "inside", False):
        return run(*call.args, **call.kwargs)
    proceed = run
    for layer in _layers:
        proceed = partial(_through, layer, call, proceed)
    _thread.inside = True
    try:
        return proceed(*call.args, **call.kwargs)
    finally:
        _thread.inside = False


def _through(layer: Layer, call: Call, proceed: Proceed, *args: Any, **kwargs: Any) -> Any:
    return layer(replace(call, args=args, kwargs=kwargs), proceed)


def _uninstall() -> None:
    import ttnn
    from ttnn import decorators

    decorators.FastOperation.__call__ = _originals.pop("__call__")
    for name in TENSOR_METHODS:
        setattr(ttnn.Tensor, name, _originals.pop(name))
