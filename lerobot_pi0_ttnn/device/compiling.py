"""How far the first call is, which compiles the kernels: minutes on a new machine, seconds where ttnn's cache has them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from ..emulation.storage import on_board
from ..ttnn_api.hook import Call, Proceed, add_layer, remove_layer
from .executor import PI0ModelTTNN


@contextmanager
def compiling(model: PI0ModelTTNN) -> Iterator[None]:
    """Shows a progress bar, as a context, if it takes over two seconds: of the model's weights, how many have been read.

    How many operations there will be only the model knows, when it has run; how many weights there are is known before.

    Args:
        model: on the board, about to be called.
    """
    names = {_place(tensor): name for name, tensor in model.chips[0].uploaded.items()}
    with tqdm(total=len(names), desc="Compiling kernels", unit="weight", delay=2) as bar:

        def follow(call: Call, proceed: Proceed) -> Any:
            # Before it is made: it may free what it is given.
            arguments = (*call.args, *call.kwargs.values())
            given = [x for each in arguments for x in (each if isinstance(each, list) else [each])]
            read = [name for tensor in given if on_board(tensor) and (name := names.pop(_place(tensor), None))]
            result = proceed(*call.args, **call.kwargs)
            bar.update(len(read))
            return result

        add_layer(follow)
        try:
            yield
        finally:
            remove_layer(follow)


def _place(tensor: Any) -> tuple[Any, int]:
    return tensor.memory_config().buffer_type, tensor.buffer_address()
