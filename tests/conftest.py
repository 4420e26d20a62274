"""What the tests share: LeRobot's tiny pi0, the twin with its weights, and inputs in which every row is awkward."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch
from lerobot.policies.pi0.modeling_pi0 import PI0Policy

from lerobot_pi0_ttnn.model_config import TINY
from lerobot_pi0_ttnn.reference import PI0ModelTorch
from lerobot_pi0_ttnn.tt.board import Board, open_board

from .oracle import CAMERAS, ModelInputs, make_batch, make_lerobot_policy, model_inputs, state_dict
from .quality import measurements

torch.set_num_threads(1)  # tiny matmuls lose more by handing work to threads than they gain

if TYPE_CHECKING:
    from lerobot_pi0_ttnn.tt.model import PI0ModelTTNN


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--board",
        default="emulated:n150",
        help="what the parity tests of the TTNN twin run on: emulated:NAME, or auto for a card or the simulator",
    )
    parser.addoption("--lerobot-tests", metavar="PATH", help="a checkout of LeRobot, whose own tests are to judge too")
    parser.addoption("--lerobot-tests-backend", default="torch", help="what they run on: torch, or a board")
    parser.addoption("--parity-table", action="store_true", help="print what was measured, as docs/parity.md has it")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The worst measurement of each test, as a Markdown table."""
    if not config.getoption("--parity-table"):
        return
    terminalreporter.write_line("\n| test | PCC | relative RMSE | limit |\n|---|---|---|---|")
    for test in dict.fromkeys(measurement.test for measurement in measurements):
        worst = max((m for m in measurements if m.test == test), key=lambda m: m.rel_rmse / m.limit)
        terminalreporter.write_line(f"| {test} | {worst.pcc:.6f} | {worst.rel_rmse:.4f} | {worst.limit} |")


@pytest.fixture(scope="session")
def board(request: pytest.FixtureRequest) -> Iterator[Board]:
    """The board of this process."""
    pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")
    with open_board(request.config.getoption("--board")) as opened:
        yield opened


@pytest.fixture(scope="session")
def tt_model(board: Board, policy: PI0Policy) -> "Callable[[str], PI0ModelTTNN]":
    """Our model on the board with the policy's weights, by precision."""
    from lerobot_pi0_ttnn.tt.model import PI0ModelTTNN

    @cache
    def model(precision: str) -> PI0ModelTTNN:
        return PI0ModelTTNN(TINY, state_dict(policy), board.device, precision=precision)

    return model


@pytest.fixture(scope="session")
def policy() -> PI0Policy:
    """LeRobot's policy, the judge."""
    return make_lerobot_policy().requires_grad_(False)


@pytest.fixture(scope="session")
def twin(policy: PI0Policy) -> PI0ModelTorch:
    """Our float32 model with the policy's weights."""
    return PI0ModelTorch(TINY, state_dict(policy))


@pytest.fixture(scope="session")
def inputs(policy: PI0Policy) -> ModelInputs:
    """Two rows that differ: prompts of 10 and 23 of 48 tokens, the first camera in one row, the last in none.

    The images of absent cameras are noise, not -1: whoever looks at them is seen.
    """
    inputs = model_inputs(policy, make_batch(cameras=CAMERAS))
    masks = [[True, False], [True, True], [False, False]]
    return {**inputs, "img_masks": [torch.tensor(mask) for mask in masks]}


@pytest.fixture(scope="module")
def servicer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Our policy server in this process, for `tests.servers.Client`."""
    from tests.servers import open_servicer

    with open_servicer(tmp_path_factory.mktemp("server")) as servicer:
        yield servicer
