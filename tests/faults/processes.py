"""Processes that the tests start in order to interrupt them.

Importing all this takes many seconds. So one process imports it once and is forked for each program, which then runs as
a program of its own: with Python's own signal handlers, and to its own end.

    this file, run:    {"program": ..., "arguments": [...], "output": ...} -> pid;  {"wait": pid} -> exit status
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Child:
    """A running program.

    Attributes:
        pid: of its process.
        output: the file that it writes to.
        errors: the file of its standard error.
    """

    def __init__(self, forker: "Forker", pid: int, output: Path) -> None:
        self._forker = forker
        self.pid = pid
        self.output, self.errors = output, output.with_suffix(".err")

    def wait_until(self, holds) -> None:
        """Waits for a condition, while the program runs and not longer than two minutes."""
        deadline = time.monotonic() + 120
        while not holds():
            assert self.is_running(), f"it has ended:\n{self.output.read_text()}\n{self.errors.read_text()}"
            assert time.monotonic() < deadline, f"{self.output.read_text()}\n{self.errors.read_text()}"
            time.sleep(0.01)

    def is_running(self) -> bool:
        state: str = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"

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

    def end(self) -> int:
        """Waits for the end, two minutes at most, and returns the exit status; minus the signal if one ended it."""
        deadline = time.monotonic() + 120
        while self.is_running():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        return self._forker.ask(wait=self.pid)


class Forker:
    """The process that is forked for each program."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children = 0
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "TMPDIR": str(folder)},
        )

    def ask(self, **request) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def run(self, program: str, *arguments: object) -> Child:
        """Starts a program; its arguments are in `sys.argv`."""
        self._children += 1
        output = self._folder / f"{self._children}.out"
        output.touch()
        pid = self.ask(program=program, arguments=[str(argument) for argument in arguments], output=str(output))
        return Child(self, pid, output)

    def close(self) -> None:
        self._process.communicate(timeout=60)


def answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    import torch

    import tests.oracle  # noqa: F401
    from lerobot_pi0_ttnn import PI0ModelTTNN, PI0TTNNPolicy  # noqa: F401

    torch.set_num_threads(1)
    # No board is open yet. What threads there are (numpy's, arrow's) are idle, and their libraries allow for forks.
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer(os.waitstatus_to_exitcode(status))
            continue
        pid = os.fork()
        if pid == 0:
            break
        answer(pid)
    else:
        sys.exit()
    # A shell's background jobs, and their children, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for path, stream in (("/dev/null", 0), (request["output"], 1), (Path(request["output"]).with_suffix(".err"), 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), stream)
    sys.argv = [request["output"], *request["arguments"]]
    exec(compile(request["program"], request["output"], "exec"), {"__name__": "__main__"})
