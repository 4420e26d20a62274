"""A machine of the tests' own: what happens to be on the one they run on decides nothing.

No variables of Tenstorrent's, Hugging Face's or a renderer's, an empty home, no network, no GPU, no card, no kernel compiler.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOREIGN = re.compile(
    r"(TT|TTNN|HF|HUGGING_?FACE\w*|TRANSFORMERS|LEROBOT|MUJOCO|PYOPENGL|EGL|WANDB|XDG|TORCH|MPL\w*|OMP|MKL|KMP)_\w+"
    r"|MPL\w+|DISPLAY|WAYLAND_DISPLAY|\w+_proxy|CI",
    re.IGNORECASE,
)
"""Variables that something here reads, and that differ from machine to machine."""

ABSENT = Path("/nonexistent")


def is_of_a_board(name: str) -> bool:
    """Whether a variable says to ttnn which board there is and how to use it."""
    return name.startswith(("TT_", "TTNN_"))


@contextmanager
def isolated(home: Path, *, keeps_board: bool) -> Iterator[dict[str, str]]:
    """Gives this process and its children the environment of a fresh machine. Yields what real kernels would have needed of it.

    Args:
        home: an empty folder.
        keeps_board: the tests are to run on what this machine has: ttnn's variables, and its kernel cache in the user's home.
    """
    before = dict(os.environ)
    of_board = {name: value for name, value in before.items() if is_of_a_board(name) or name == "HOME"}
    for name in before:
        if FOREIGN.fullmatch(name) and not (keeps_board and is_of_a_board(name)):
            del os.environ[name]
    # LeRobot takes a GPU where there is one. Workers of pytest-xdist and programs in processes of their own share the cores.
    os.environ |= {"HF_HOME": str(home / "huggingface"), "HF_HUB_OFFLINE": "1"}
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    if not keeps_board:
        os.environ["HOME"] = str(home)
    try:
        yield of_board
    finally:
        os.environ.clear()
        os.environ.update(before)


def hide_boards() -> None:
    """Lets this package find neither a card nor a kernel compiler, for the rest of the process."""
    from lerobot_pi0_ttnn.cli.doctor import command as doctor
    from lerobot_pi0_ttnn.cli.doctor import compiler
    from lerobot_pi0_ttnn.device import cards

    cards.NODES = ABSENT
    compiler.SYSTEM_FOLDER = ABSENT
    doctor.SYS = ABSENT
