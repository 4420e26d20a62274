"""LeRobot's and our own programs as processes of their own, with the fake robot among LeRobot's plug-ins."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FAKE_ROBOT = Path(__file__).parent / "fake_robot"
SEED = 0

RUNS_A_MODULE = f"""
import runpy, sys, torch
torch.manual_seed({SEED})
sys.path.insert(0, {str(FAKE_ROBOT)!r})
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


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
            self._process: subprocess.Popen[bytes] | Child = subprocess.Popen(
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

    def __init__(self, module: str, arguments: Sequence[object], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._output = folder / "output.txt"
        self._process = forker().run(RUNS_A_MODULE, module, *arguments, folder=folder, output=self._output)


class Child:
    """A running program, forked.

    Attributes:
        pid: of its process.
        output: the file that it writes to.
        errors: the file of its standard error.
    """

    def __init__(self, forker: "Forker", pid: int, output: Path, errors: Path) -> None:
        self._forker = forker
        self._status: int | None = None
        self.pid = pid
        self.output, self.errors = output, errors

    def poll(self) -> int | None:
        """Its exit status, minus the signal if one ended it; None while it runs."""
        if self._status is None:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "Z":
                self._status = self._forker.ask(wait=self.pid)
        return self._status

    def is_running(self) -> bool:
        return self.poll() is None

    def kill(self) -> None:
        if self.is_running():
            self.send(signal.SIGKILL)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Waits for a condition, while the program runs and not longer than two minutes."""
        deadline = time.monotonic() + 120
        while not holds():
            assert self.is_running(), f"it has ended:\n{self.output.read_text()}\n{self.errors.read_text()}"
            assert time.monotonic() < deadline, f"{self.output.read_text()}\n{self.errors.read_text()}"
            time.sleep(0.01)

    def wait_for(self, word: str) -> None:
        """Waits until the program has said `word`."""
        self.wait_until(lambda: word in self.output.read_text().split())

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def interrupt(self) -> None:
        """Presses Ctrl-C, and again if need be: one that arrives while nanobind, inside `ttnn.from_torch`, tries to read
        a tensor through DLPack is lost, for nanobind takes any exception to mean that it cannot.
        """
        for _ in range(3):
            os.kill(self.pid, signal.SIGINT)
            patience = time.monotonic() + 6
            while time.monotonic() < patience and self.is_running():
                time.sleep(0.01)
            if not self.is_running():
                return

    def end(self, seconds: float = 120) -> int:
        """Waits for the end, killing it after so long, and returns the exit status; minus the signal if one ended it."""
        deadline = time.monotonic() + seconds
        while self.is_running():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        assert self._status is not None
        return self._status


class Forker:
    """The process that is forked for each program, see `forker.py`."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="lerobot-pi0-ttnn-programs-", ignore_cleanup_errors=True)
        self._folder = Path(self._temporary.name)
        self._children = 0
        self._asking = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("forker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # This checkout, even where another one is installed.
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )

    def ask(self, **request: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._asking:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            return int(self._process.stdout.readline())

    def run(
        self,
        program: str,
        *arguments: object,
        folder: Path | None = None,
        output: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Starts a program; its arguments are in `sys.argv`.

        Args:
            program: Python source.
            *arguments: anything that has a string.
            folder: where it works; a temporary one unless said.
            output: a file for what it says, errors too; two temporary ones unless said.
            environment: instead of this process's.
        """
        self._children += 1
        files = [self._folder / f"{self._children}{suffix}" for suffix in (".out", ".err")]
        written, errors = [output, output] if output else files
        for file in (written, errors):
            file.write_text("")
        pid = self.ask(
            program=program,
            arguments=[str(argument) for argument in arguments],
            folder=str(folder or self._folder),
            environment=os.environ | {"TMPDIR": str(self._folder)} if environment is None else dict(environment),
            output=str(written),
            errors=str(errors),
        )
        return Child(self, pid, written, errors)

    def close(self) -> None:
        self._process.communicate(timeout=60)
        self._temporary.cleanup()


@cache
def forker() -> Forker:
    """The one of this process, started when first asked for."""
    started = Forker()
    atexit.register(started.close)
    return started


def run_python(program: str, arguments: Sequence[object] = (), *, seconds: float = 300, **options: object) -> str:
    """What a program in a process of its own prints, forked from one that has imported LeRobot and ttnn; fails with its errors.

    Args:
        program: Python source.
        arguments: in its `sys.argv`.
        seconds: how long it may take.
        **options: of `Forker.run`.
    """
    child = forker().run(program, *arguments, **options)  # type: ignore[arg-type]
    assert child.end(seconds) == 0, child.output.read_text()[-2000:] + child.errors.read_text()[-6000:]
    return child.output.read_text()


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Returns when the condition holds; TimeoutError where that takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.05)
