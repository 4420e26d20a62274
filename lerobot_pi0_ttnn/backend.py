"""The backends behind the policy: the board that a config asks for, and the model on it."""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from huggingface_hub import constants
from torch import Tensor
from tqdm import tqdm

from .action_limits import check_finite
from .checkpoint import CheckpointWeights
from .configuration_pi0_ttnn import PI0TTNNConfig
from .model.observation import blank_calls
from .model.tensors import check_weights
from .reference import PI0ModelTorch

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from .device.board import Board
    from .device.executor import PI0ModelTTNN
    from .device.weight_cache import WeightCache

    Model = PI0ModelTorch | PI0ModelTTNN


def open_backend(config: PI0TTNNConfig) -> "Board | None":
    """Returns the open board that the ttnn backend computes on; None for the torch backend, which has none.

    Raises:
        ImportError: the ttnn backend's package is not installed.
        FileNotFoundError: there is no such board.
    """
    if config.backend == "torch":
        return None
    from .device.board import open_board

    return open_board(
        config.board, trace_region_mb=config.trace_region_mb, operation_timeout_s=config.operation_timeout_s
    )


def build_model(config: PI0TTNNConfig, weights: Mapping[str, Tensor], board: "Board | None") -> "Model":
    """Returns the model that `config.backend` names, with a progress bar if it takes over two seconds.

    A board of several chips has all of it on each.

    Args:
        config: what the user chose.
        weights: all tensors by name.
        board: what `open_backend` returned.

    Raises:
        ValueError: with every missing, unexpected and mis-shaped tensor.
        BoardError: the board fails.
    """
    model = config.model_config()
    check_weights(model, weights)
    taken: set[str] = set()
    with tqdm(total=len(weights), unit="tensor", desc=f"Loading {config.model_name}", delay=2) as bar:

        def count(name: str) -> None:
            taken.add(name)
            bar.update(len(taken) - bar.n)

        if board is None:
            return PI0ModelTorch(model, weights, dtype=getattr(torch, config.dtype), on_take=count)
        from .device.executor import PI0ModelTTNN

        traces = board.traces
        if traces is None:
            level = logging.WARNING if board.kind == "card" else logging.INFO
            logger.log(level, "%s: no traces, calls are eager, which is slower: %s.", board.name, board.why_no_trace)
        with board.in_use("loading the weights"):
            return PI0ModelTTNN(
                model,
                weights,
                board.devices,
                precision=config.precision,
                throttle=config.throttle,
                programs=config.programs,
                cache=weight_cache(config, weights, board),
                traces=traces,
                on_take=count,
            )


def warm_up(model: "Model", *, cameras: int, tokens: tuple[int, int], max_gain: float | None) -> None:
    """Runs the model on blank rows, so that later calls find kernels compiled, traces captured and weights in memory.

    One row on each chip. More rows that a chip computes together are kernels of their own, compiled at their first call.

    Args:
        model: what `build_model` returned.
        cameras: the most that will be present.
        tokens: of the shortest and of the longest prompt.
        max_gain: of the guidance that will be asked for beside free chunks; None for none.

    Raises:
        FloatingPointError: the model computes NaN or infinity.
    """
    config = model.config
    if isinstance(model, PI0ModelTorch):
        # Any call has the weights read from disk.
        calls = blank_calls(config, [(1, 1)], max_gain=max_gain)
    else:
        calls = model.warm_up_calls(cameras=cameras, tokens=tokens, max_gain=max_gain)
    for number, (observation, guidance) in enumerate(tqdm(calls, desc="Warming up", delay=2)):
        noise = torch.zeros(observation.rows, config.horizon, config.action_dim)
        # Nearly all kernels are compiled by the first call.
        with nullcontext() if number or isinstance(model, PI0ModelTorch) else _compiling(model):
            actions = model.sample_actions(observation, noise=noise, guidance=guidance)
        check_finite(actions)


def _compiling(model: "PI0ModelTTNN") -> AbstractContextManager[None]:
    from .device.compiling import compiling

    return compiling(model)


def weight_cache(config: PI0TTNNConfig, weights: Mapping[str, Tensor], board: "Board") -> "WeightCache | None":
    """Returns the cache of converted weights; None where the user wants none, or the weights are not of a checkpoint."""
    if not (config.cache_weights and isinstance(weights, CheckpointWeights)):
        return None
    from .device.weight_cache import WeightCache

    folder = config.weight_cache_dir or Path(constants.HF_HOME) / "lerobot_pi0_ttnn" / "weights"
    board_name = board.describe()["arch"]
    key = {"checkpoint": weights.fingerprint(), "precision": config.precision, "board": board_name}
    if config.programs == "stock":
        key["programs"] = config.programs  # they have tensors of their own
    return WeightCache(folder, key, check=weights.check_unchanged)
