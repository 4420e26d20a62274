"""A process that imports what the tests' programs import, once, and is forked for each of them.

Importing LeRobot and ttnn takes most of what a short program takes. A forked one runs as a program of its own: with its own
folder, environment and output, with Python's own signal handlers, and to its own end. `processes.Forker` starts this file.

    {"program", "arguments", "folder", "environment", "output", "errors"} -> pid;  {"wait": pid} -> exit status
"""

import importlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
from typing import Any

IMPORTED = (
    "lerobot.scripts.lerobot_eval",
    "lerobot.scripts.lerobot_rollout",
    "lerobot.async_inference.helpers",
    "lerobot_pi0_ttnn.cli",
    "lerobot_pi0_ttnn.modeling_pi0_ttnn",
    "tests.machine",
    "tests.oracle",
)
OF_THE_BACKEND = ("ttnn", "lerobot_pi0_ttnn.device.executor", "lerobot_pi0_ttnn.emulation.emulator")


def answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def become(request: dict[str, Any]) -> None:
    """Makes this process look like one that was started as asked."""
    # A shell's background jobs, and their children, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    os.chdir(request["folder"])
    for path, stream in (("/dev/null", 0), (request["output"], 1), (request["errors"], 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666), stream)
    sys.argv = [request["output"], *request["arguments"]]


if __name__ == "__main__":
    for module in IMPORTED + (OF_THE_BACKEND if importlib.util.find_spec("ttnn") else ()):
        importlib.import_module(module)
    import torch

    from tests.machine import hide_boards

    torch.set_num_threads(1)
    hide_boards()
    # No board is open yet. What threads there are (numpy's, arrow's) are idle, and their libraries allow for forks.
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            _, status = os.waitpid(asked["wait"], 0)
            answer(os.waitstatus_to_exitcode(status))
            continue
        pid = os.fork()
        if pid == 0:
            break
        answer(pid)
    else:
        sys.exit()
    become(asked)
    exec(compile(asked["program"], asked["output"], "exec"), {"__name__": "__main__"})
