"""One emulated n150 for all tests of this process; other boards are opened in processes of their own, see `run_python`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # imported before `tests/conftest.py` has set up the environment, were it not for that
    import torch

    from lerobot_pi0_ttnn.device.board import Board

BF16_STEP = 2.0**-7


@pytest.fixture(scope="session")
def board() -> Iterator[Board]:
    pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")
    from lerobot_pi0_ttnn.device.board import open_board

    with open_board("emulated:n150") as opened:
        yield opened


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture
def upload(board: Board) -> Callable[..., Any]:
    """A torch tensor, onto the board: bfloat16 tiles unless said otherwise."""
    import ttnn

    def upload(value: torch.Tensor, **options: Any) -> Any:
        options = {"dtype": ttnn.bfloat16, "layout": ttnn.TILE_LAYOUT, **options}
        return ttnn.from_torch(value, device=board.device, **options)

    return upload


@pytest.fixture
def draw() -> Callable[..., torch.Tensor]:
    """Normal numbers that bfloat16 holds, as float32: the board rounds none of its inputs."""

    import torch

    def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape) * scale).bfloat16().float()

    return draw


@pytest.fixture
def agrees() -> Callable[..., None]:
    """Asserts that a tensor on the board is `expected`, rounded to bfloat16 once, or without any difference."""
    import torch
    import ttnn

    def agrees(tensor: Any, expected: torch.Tensor, *, exact: bool = False) -> None:
        actual = ttnn.to_torch(tensor).float()
        assert tuple(tensor.shape) == tuple(expected.shape)
        if exact:
            assert torch.equal(actual, expected.float())
        else:
            torch.testing.assert_close(actual, expected.float(), rtol=BF16_STEP, atol=1e-4)

    return agrees
