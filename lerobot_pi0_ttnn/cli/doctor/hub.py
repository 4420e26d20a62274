"""Hugging Face's cache and the tokenizer. The network is asked only for what the cache lacks, and not for long."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path

from ...checkpoint.tokenizer import NamedTokenizer
from .finding import Finding

ROOM_BYTES = 18 * 10**9
"""lerobot/pi0_base in float32, and its converted weights."""


def existing_folder(path: Path) -> Path:
    """Returns the folder itself, or the nearest of its parents that exists: where it would be made."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_cache(folder: Path, *, writable: bool, free_bytes: int, offline: bool) -> Finding:
    """Whether checkpoints can be downloaded and converted weights be kept.

    Args:
        folder: Hugging Face's cache folder, which need not exist yet.
        writable: this user may write there.
        free_bytes: on its file system.
        offline: HF_HUB_OFFLINE: nothing is to be downloaded anyhow.
    """
    fix = "set HF_HOME to a folder on a disk with room, to which you may write"
    if not writable:
        found = f"{folder} is not writable: no downloads, and weights are converted anew at each start"
        return Finding("hf cache", "warn" if offline else "fail", found, fix)
    found = f"{folder}, {free_bytes / 1e9:.0f} GB free"
    if free_bytes < ROOM_BYTES:
        found += f"; pi0_base takes {ROOM_BYTES / 1e9:.0f} GB with its converted weights"
        return Finding("hf cache", "warn", found, fix)
    return Finding("hf cache", "ok", found + (", HF_HUB_OFFLINE" if offline else ""))


def within[Answer](seconds: float, question: Callable[[], Answer], *, otherwise: Answer) -> Answer:
    """Returns the question's answer, or `otherwise` where it takes too long: a dead network must not hang the doctor."""
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    # A daemon, because nothing can end a thread that waits for a name server; the process need not wait for it.
    threading.Thread(target=lambda: answers.put(question()), daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return otherwise


def check_tokenizer(tokenizer: NamedTokenizer) -> Finding:
    """Whether prompts can be tokenized on this machine."""
    state = tokenizer.state
    if state.problem:
        # Other checkpoints may name another than Google's, or carry their own, as the demo's.
        is_failure = tokenizer.by_preprocessor and (state.is_fatal or not state.is_here)
        return Finding("tokenizer", "fail" if is_failure else "warn", state.problem, state.fix)
    where = f": {state.place}" if state.is_here else ", not here yet; the Hub lets this account fetch it"
    return Finding("tokenizer", "ok", f"{tokenizer.name}{where}")
