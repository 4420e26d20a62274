"""LeRobot's and our own programs as processes of their own, with the fake robot among LeRobot's plug-ins."""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

FAKE_ROBOT = Path(__file__).parent / "fake_robot"
SEED = 0
IMPORTED = ["lerobot.scripts.lerobot_rollout", "lerobot.async_inference.helpers", "lerobot_pi0_ttnn.modeling_pi0_ttnn"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED)


class Command:
    """A command line that runs, as a person would start it.

    Args:
        command: the program and its arguments.
        folder: where it works, and its output goes to.
    """

    def __init__(self, command: Sequence[str | Path], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._output = folder / "output.txt"
        environment = os.environ | {"PYTHONPATH": f"{FAKE_ROBOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait(self, seconds: float) -> int:
        """Its exit status, once it has ended; it is killed where that takes longer than `seconds`."""
        try:
            until(lambda: self.status is not None, seconds)
        except TimeoutError as error:
            self.kill()
            raise TimeoutError(f"{error}:\n{self.output[-3000:]}") from None
        return self.status

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()


class Program(Command):
    """A running `python -m module arguments`, seeded, forked from a process that has imported LeRobot already.

    Importing it takes longest of all.
    """

    def __init__(self, module: str, arguments: Sequence[str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._output = folder / "output.txt"
        self._output.touch()
        self._process = _context.Process(target=_run, args=(module, [module, *arguments], folder, self._output))
        self._process.start()

    @property
    def status(self) -> int | None:
        return self._process.exitcode


def _run(module: str, argv: list[str], folder: Path, output: Path) -> None:
    os.chdir(folder)
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    sys.path.insert(0, str(FAKE_ROBOT))
    sys.argv = argv
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Returns when the condition holds; TimeoutError where that takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.05)
