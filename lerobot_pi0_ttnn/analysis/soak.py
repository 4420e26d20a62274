"""Random questions for as long as one likes: the first answer to each is what every later one has to be, to the bit."""

import ctypes
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..device.board import Board
from ..device.executor import PI0ModelTTNN
from ..model.config import PI0ModelConfig
from ..model.observation import Observation
from ..model.rtc import make_guidance
from .behaviour import Case, difference

SEEDS = 24
"""Different questions: few, so that each comes again, in another order and after others."""
GROWTH_MB = 64
"""Of the host's memory that is no leak: what glibc cannot give back, since a page of it has something that is in use."""
STATM = Path("/proc/self/statm")
PAGE_MB = 4096 / 2**20


@dataclass(frozen=True)
class SoakResult:
    """What came of it.

    Attributes:
        calls: chunks.
        reloads: how often a model was loaded anew.
        interrupts: how often the process was sent SIGINT between two calls.
        minutes: it took.
        kind: of the finding that ended it; empty without.
        detail: what was seen, with the seed.
        host_mb: resident memory without what glibc has free, first once memory has to be flat, and at the end.
        board_mb: likewise, the DRAM in use.
    """

    calls: int
    reloads: int
    interrupts: int
    minutes: float
    kind: str
    detail: str
    host_mb: tuple[float, float]
    board_mb: tuple[float, float]

    @property
    def is_flat(self) -> bool:
        """Whether neither memory has grown; of too few calls it says nothing, and is True."""
        return self.host_mb[1] - self.host_mb[0] < GROWTH_MB and self.board_mb[1] - self.board_mb[0] < 1.0


def random_case(config: PI0ModelConfig, seed: int, *, cameras: int, tokens: int) -> Case:
    """Returns a question, always the same for a seed: of some cameras, a prompt of some length, guided or free.

    Args:
        config: sizes of the model.
        seed: of all of it.
        cameras: the most that are present.
        tokens: of the longest prompt.
    """
    generator, choose = torch.Generator().manual_seed(seed), random.Random(seed)
    size, present = config.vision.image_size, choose.randint(1, cameras)
    length = choose.randint(1, tokens)
    observation = Observation(
        images=[torch.rand(1, 3, size, size, generator=generator) * 2 - 1 for _ in range(cameras)],
        img_masks=[torch.tensor([camera < present]) for camera in range(cameras)],
        lang_tokens=torch.randint(0, config.vocab_size, (1, length), generator=generator),
        lang_masks=torch.ones(1, length, dtype=torch.bool),
        state=torch.randn(1, config.state_dim, generator=generator),
    )
    noise = torch.randn(1, config.horizon, config.action_dim, generator=generator)
    case = Case(f"seed {seed}", observation, noise)
    if choose.random() < 0.5:
        return case
    guidance = make_guidance(
        torch.randn(config.horizon // 2, config.action_dim, generator=generator),
        (1, config.horizon, config.action_dim),
        widths=(config.action_dim,),
        delay=choose.randint(0, config.horizon // 4),
        execution_horizon=config.horizon // 2,
        schedule="LINEAR",
        max_gain=10.0,
    )
    return replace(case, guidance=guidance)


def soak(
    board: Board,
    model: PI0ModelTTNN,
    make_another: Callable[[], PI0ModelTTNN],
    *,
    seconds: float,
    cameras: int,
    tokens: int,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> SoakResult:
    """Returns what came of asking two models on one board in turn, the second of which is loaded anew now and then.

    Now and then the process is sent SIGINT between two calls, as by a user who stops one program and goes on with the board.
    It ends with the first answer that is not finite, or differs from the first one to the same question.

    Args:
        board: in use by the caller.
        model: the first.
        make_another: loads the second, which computes alike.
        seconds: after which no more is asked.
        cameras: the most that are present.
        tokens: of the longest prompt.
        seed: of the order of the questions.
        clock: seconds.
    """
    choose = random.Random(seed)
    first: dict[int, Tensor] = {}
    calls = reloads = interrupts = 0
    start, kind, detail = clock(), "", ""
    settled: tuple[float, float] | None = None
    other = make_another()
    try:
        while not kind and clock() - start < seconds:
            if choose.random() < 1 / SEEDS:
                other.release()
                other = make_another()
                reloads += 1
            if choose.random() < 1 / SEEDS:
                interrupts += _interrupt()
            number, name = choose.randrange(SEEDS), choose.choice(["first", "second"])
            case = random_case(model.config, 1000 * seed + number, cameras=cameras, tokens=tokens)
            got = case.ask(model if name == "first" else other)
            calls += 1
            want = first.setdefault(number, got)
            if not got.isfinite().all() or not torch.equal(got, want):
                lost = int((~got.isfinite()).sum())
                said = f"{lost} values are not finite" if lost else f"not the first answer: {difference(got, want)}"
                kind = "not finite" if lost else "repetition"
                detail = f"call {calls}, to the {name} model, {case.name}, soak seed {seed}: {said}"
            # Kernels, contexts and weights of all that is ever asked have been there once.
            if settled is None and len(first) == SEEDS and reloads:
                settled = _memory(board, model, other)
        end = _memory(board, model, other)
    finally:
        other.release()
    minutes, before = (clock() - start) / 60, settled or end
    host, dram = zip(before, end, strict=True)
    return SoakResult(calls, reloads, interrupts, minutes, kind, detail, host, dram)


def _interrupt() -> int:
    """Returns 1 after a SIGINT to this process that came as KeyboardInterrupt; 0 where its handler is another, or not ours."""
    if threading.current_thread() is not threading.main_thread():
        return 0
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return 0
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # never to its end
    except KeyboardInterrupt:
        return 1
    return 0


def _memory(board: Board, *models: PI0ModelTTNN) -> tuple[float, float]:
    """Returns the MB that this process has in memory, and those in use of a chip's DRAM, by nothing but the weights."""
    for model in models:
        model.forget()
    gc.collect()
    # What is free but not given back is fragmentation, tens of MB that come and go with the order of the questions.
    ctypes.CDLL(None).malloc_trim(0)
    resident = int(STATM.read_text().split()[1]) * PAGE_MB
    return resident, board.describe()["dram_bytes_in_use"] / 2**20
