"""LeRobot's own programs as processes of their own, forked from one that has imported LeRobot already: that takes longest."""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

FAKE_ROBOT = Path(__file__).parent / "fake_robot"
IMPORTED = ["lerobot.scripts.lerobot_rollout", "lerobot.async_inference.helpers", "lerobot_pi0_ttnn.modeling_pi0_ttnn"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED)


class Program:
    """A running `python -m module arguments`, with the fake robot among its plug-ins.

    Args:
        module: what to run.
        arguments: its command line.
        folder: where it works, and its output goes to.
    """

    def __init__(self, module: str, arguments: Sequence[str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._output = folder / "output.txt"
        self._output.touch()
        self._process = _context.Process(target=_run, args=(module, [module, *arguments], folder, self._output))
        self._process.start()

    def wait(self, timeout: float) -> int:
        """Its exit status; TimeoutError where it goes on for longer than `timeout` seconds, and is killed."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise TimeoutError(f"still running after {timeout} s:\n{self.output[-3000:]}")
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    @property
    def output(self) -> str:
        return self._output.read_text()


def _run(module: str, argv: list[str], folder: Path, output: Path) -> None:
    os.chdir(folder)
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.path.insert(0, str(FAKE_ROBOT))
    sys.argv = argv
    runpy.run_module(module, run_name="__main__", alter_sys=True)
