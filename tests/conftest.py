"""What the tests share: a machine of their own, LeRobot's tiny pi0, the twin with its weights, and awkward inputs.

Nothing heavy is imported here: the process that hands the tests out to others reads this file, too.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .machine import hide_boards, is_of_a_board, isolated
from .quality import Measurement, measurements

if TYPE_CHECKING:
    from lerobot.policies.pi0.modeling_pi0 import PI0Policy

    from lerobot_pi0_ttnn.device.board import Board
    from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
    from lerobot_pi0_ttnn.reference import PI0ModelTorch
    from training.simulation import Simulation

    from .oracle import ModelInputs

EMULATED = "emulated:"

board_variables = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--board",
        default="emulated:n150",
        help="what the parity tests of the TTNN twin run on: emulated:NAME, or auto for a card or the simulator",
    )
    parser.addoption("--lerobot-tests", metavar="PATH", help="a checkout of LeRobot, whose own tests are to judge too")
    parser.addoption("--lerobot-tests-backend", default="torch", help="what they run on: torch, or a board")
    parser.addoption("--parity-table", action="store_true", help="print what was measured, as docs/parity.md has it")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--parity-table"):
        config.pluginmanager.register(ParityTable())
    if hasattr(config, "workerinput"):  # of pytest-xdist, which has inherited all that
        config.stash[board_variables] = config.workerinput["board_variables"]
        return
    on_real_kernels = not config.getoption("--board").startswith(EMULATED)
    if on_real_kernels and config.getoption("numprocesses", None):
        raise pytest.UsageError("--board: real kernels are for one process: leave -n out")
    stack = ExitStack()
    config.add_cleanup(stack.close)
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lerobot-pi0-ttnn-tests-")))
    config.stash[board_variables] = stack.enter_context(isolated(home, keeps_board=on_real_kernels))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Hands to a worker of pytest-xdist what it cannot see."""
    node.workerinput["board_variables"] = node.config.stash[board_variables]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seeds what a test and its fixtures draw unseeded (PEFT's adapters): the same in any order, in any process."""
    import torch

    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Puts what a test measured into its report, which travels from worker to worker."""
    measurements.clear()
    try:
        return (yield)
    finally:
        item.user_properties += [("parity", (m.pcc, m.rel_rmse, m.limit)) for m in measurements]


MANY = 32
"""Measurements of one test of which the mean is worth a word."""


class ParityTable:
    """The worst measurement of each test, as a Markdown table."""

    def __init__(self) -> None:
        self.measured: dict[str, list[Measurement]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            measured = [Measurement(*value) for name, value in report.user_properties if name == "parity"]
            self.measured.setdefault(report.nodeid.partition("::")[2], []).extend(measured)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.write_line("\n| test | PCC | relative RMSE | limit |\n|---|---|---|---|")
        for test, measured in self.measured.items():
            if measured:
                worst = max(measured, key=lambda m: m.rel_rmse / (m.limit or 1.0))
                mean = sum(m.pcc for m in measured) / len(measured)
                among = f" (mean PCC of {len(measured)}: {mean:.6f})" if len(measured) >= MANY else ""
                row = f"| {test}{among} | {worst.pcc:.6f} | {worst.rel_rmse:.4f} | {worst.limit} |"
                terminalreporter.write_line(row)


@pytest.fixture(autouse=True, scope="session")
def _machine(pytestconfig: pytest.Config) -> None:
    """One thread: tiny matmuls lose more by handing work to threads than they gain."""
    import torch

    torch.set_num_threads(1)
    if pytestconfig.getoption("--board").startswith(EMULATED):
        hide_boards()


@pytest.fixture(autouse=True)
def _variables_of_a_board(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are seen by those tests only that run on what they name."""
    if "board" not in request.fixturenames:
        for name in filter(is_of_a_board, list(os.environ)):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _signal_handlers() -> Iterator[None]:
    """LeRobot's programs, run in a test's own process, take signals over and do not give them back."""
    found = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    }
    yield
    for number, handler in found.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def variables_of_the_board(pytestconfig: pytest.Config) -> dict[str, str]:
    """Those that this machine has set for ttnn, for a process that is to run on what they name."""
    return pytestconfig.stash[board_variables]


@pytest.fixture(scope="session")
def run_python() -> Callable[..., str]:
    """What a program in a process of its own prints; fails with its errors."""
    from .processes import run_python

    return run_python


@pytest.fixture(scope="session")
def board(request: pytest.FixtureRequest) -> Iterator[Board]:
    """The board of this process."""
    pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")
    from lerobot_pi0_ttnn.device.board import open_board

    with open_board(request.config.getoption("--board")) as opened:
        yield opened


@pytest.fixture(scope="session")
def tt_model(board: Board, policy: PI0Policy) -> Callable[[str], PI0ModelTTNN]:
    """Our model on the board with the policy's weights, by precision."""
    from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
    from lerobot_pi0_ttnn.model.config import TINY

    from .oracle import state_dict

    @cache
    def model(precision: str) -> PI0ModelTTNN:
        return PI0ModelTTNN(TINY, state_dict(policy), board.device, precision=precision)

    return model


@pytest.fixture(scope="session")
def policy() -> PI0Policy:
    """LeRobot's policy, the judge."""
    from .oracle import make_lerobot_policy

    return make_lerobot_policy().requires_grad_(False)


@pytest.fixture(scope="session")
def twin(policy: PI0Policy) -> PI0ModelTorch:
    """Our float32 model with the policy's weights."""
    from lerobot_pi0_ttnn.model.config import TINY
    from lerobot_pi0_ttnn.reference import PI0ModelTorch

    from .oracle import state_dict

    return PI0ModelTorch(TINY, state_dict(policy))


@pytest.fixture(scope="session")
def inputs(policy: PI0Policy) -> ModelInputs:
    """Two rows that differ: prompts of 10 and 23 of 48 tokens, the first camera in one row, the last in none.

    The images of absent cameras are noise, not -1: whoever looks at them is seen.
    """
    import torch

    from .oracle import CAMERAS, make_batch, model_inputs

    inputs = model_inputs(policy, make_batch(cameras=CAMERAS))
    masks = [[True, False], [True, True], [False, False]]
    return {**inputs, "img_masks": [torch.tensor(mask) for mask in masks]}


@pytest.fixture(scope="session")
def simulation() -> Iterator[Simulation]:
    """The task of the learned checkpoint that the tests play."""
    pytest.importorskip("metaworld", reason="LeRobot's environment is not installed")
    from lerobot_pi0_ttnn.cli.demo import check_gl
    from training.simulation import Simulation  # sets MUJOCO_GL

    from .learned import TASK

    try:
        check_gl(dict(os.environ))
    except OSError as error:
        pytest.skip(str(error))
    made = Simulation(TASK)
    yield made
    made.close()


@pytest.fixture(scope="module")
def servicer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Our policy server in this process, for `tests.servers.Client`."""
    from tests.servers import open_servicer

    with open_servicer(tmp_path_factory.mktemp("server")) as servicer:
        yield servicer
