"""pi0 on this CPU: LeRobot's PI0Policy against this package's torch backend, full size, bfloat16.

    uv run python -m benchmarks.lerobot_cpu            # about 15 minutes, 8 GB of disk, 20 GB of memory
    uv run python -m benchmarks.lerobot_cpu --starts-only   # how long the two take until they are ready; 5 minutes

Makes a synthetic pi0 checkpoint (7 GB, kept for the next run), loads it in one process for each policy, and asks the two for
chunks in turn, so that a change in the machine's speed meets both; then a third process computes the same chunks in float32.
Prints a Markdown table, and as its last line JSON.
"""

import argparse
import json
import multiprocessing
import multiprocessing.connection
import resource
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lerobot_pi0_ttnn.analysis.markdown import markdown_table
from lerobot_pi0_ttnn.model.config import PI0_BASE, PI0ModelConfig

CAMERAS = ("base", "left_wrist", "right_wrist")
CANDIDATES = ("LeRobot PI0Policy", "lerobot_pi0_ttnn, backend=torch")
SEED = 0
CASES = ((3, 3), (2, 2), (1, 1), (2, 3), (1, 3))
"""(present cameras, cameras in the policy's config): pi0_base has slots for three, of which most robots fill one or two."""


@dataclass
class Arguments:
    """The command line."""

    folder: Path
    """Where the checkpoint is or will be."""
    rounds: int
    """Timed chunks for each policy and number of cameras; the median counts."""
    starts_only: bool = False
    """Whether to load the policies and no more."""


def main() -> None:
    """Runs the benchmark."""
    arguments = parse_arguments()
    make_checkpoint(arguments.folder)
    if arguments.starts_only:
        print(json.dumps(measure_starts(arguments.folder)))
        return
    table = measure(arguments)
    print(as_markdown(table))
    print(json.dumps(table))


def parse_arguments() -> Arguments:
    """Returns the command line's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmark_checkpoint"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--starts-only", action="store_true")
    return Arguments(**vars(parser.parse_args()))


def make_checkpoint(folder: Path, model: PI0ModelConfig = PI0_BASE) -> None:
    """Makes a `type: pi0` folder in the layout of the Hub's pi0_base: no prefix, embedding tied to lm_head."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.pi0.configuration_pi0 import PI0Config

    from lerobot_pi0_ttnn.checkpoint.layout import EMBEDDING, LM_HEAD
    from lerobot_pi0_ttnn.demo.checkpoint import write_random_weights
    from lerobot_pi0_ttnn.model.tensors import expected_shapes

    folder.mkdir(parents=True, exist_ok=True)
    features = {f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, (3, 480, 640)) for camera in CAMERAS}
    features["observation.state"] = PolicyFeature(FeatureType.STATE, (14,))
    PI0Config(
        device="cpu",
        dtype="bfloat16",
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (14,))},
    ).save_pretrained(folder)
    weights = folder / "model.safetensors"
    if not weights.exists():
        shapes = {LM_HEAD if name == EMBEDDING else name: shape for name, shape in expected_shapes(model).items()}
        shapes["paligemma_with_expert.gemma_expert.lm_head.weight"] = (model.vocab_size, model.expert.width)
        write_random_weights(weights, shapes, seed=SEED, dtype=torch.bfloat16)


def make_batch(cameras: int, vocab_size: int = PI0_BASE.vocab_size) -> dict[str, Tensor]:
    """Returns one observation as LeRobot's preprocessor hands it over: 480x640 images, a prompt of 12 tokens."""
    generator = torch.Generator().manual_seed(SEED)
    batch = {
        f"observation.images.{name}": torch.rand(1, 3, 480, 640, generator=generator) for name in CAMERAS[:cameras]
    }
    batch["observation.state"] = torch.randn(1, 14, generator=generator)
    tokens = torch.zeros(1, 48, dtype=torch.long)
    tokens[0, :12] = torch.randint(3, vocab_size, (12,), generator=generator)
    return batch | {"observation.language.tokens": tokens, "observation.language.attention_mask": tokens != 0}


def load(candidate: str, folder: Path) -> Any:
    """Returns the policy of a candidate, not warmed up; the third candidate, `float32`, is the judge."""
    if candidate == CANDIDATES[0]:
        from lerobot.policies.pi0.modeling_pi0 import PI0Policy

        return PI0Policy.from_pretrained(folder)
    from lerobot_pi0_ttnn import PI0TTNNPolicy

    dtype = "float32" if candidate == "float32" else "bfloat16"
    return PI0TTNNPolicy.from_pretrained(folder, backend="torch", dtype=dtype, warm_up=False)


@dataclass
class Start:
    """Seconds until the policy was loaded, and until it was ready: ours is warmed up, which is its default."""

    loaded: float
    ready: float


Request = tuple[dict[str, Tensor], int, Tensor]
"""A batch, the number of cameras in the policy's config, the noise."""
Answer = tuple[float, Tensor]
"""Seconds, and the actions."""


class Served:
    """A policy in this process, that is asked for chunks.

    Attributes:
        start: what it took.
    """

    def __init__(self, candidate: str, folder: Path) -> None:
        self._is_lerobots = candidate == CANDIDATES[0]
        start = time.perf_counter()
        self._policy = load(candidate, folder)
        loaded = time.perf_counter() - start
        if not self._is_lerobots:
            self._policy.warm_up()
        self.start = Start(loaded, time.perf_counter() - start)
        self._features = dict(self._policy.config.input_features)

    def chunk(self, request: Request) -> Answer:
        """Returns the seconds that a chunk takes, and its actions."""
        batch, slots, noise = request
        if self._is_lerobots:  # ours spends nothing on a slot that is empty
            kept = [f"observation.images.{camera}" for camera in CAMERAS[:slots]] + ["observation.state"]
            self._policy.config.input_features = {name: self._features[name] for name in kept}
        start = time.perf_counter()
        with torch.inference_mode():
            actions = self._policy.predict_action_chunk(dict(batch), noise=noise)
        return time.perf_counter() - start, actions

    def peak_gib(self) -> float:
        """Returns the most memory that this process has had."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def serve(candidate: str, folder: Path, pipe: multiprocessing.connection.Connection) -> None:
    """Loads one policy, answers requests, and None with its peak memory."""
    served = Served(candidate, folder)
    pipe.send(served.start)
    while (request := pipe.recv()) is not None:
        pipe.send(served.chunk(request))
    pipe.send(served.peak_gib())


class Remote:
    """A policy in a process of its own, that is asked for chunks as `Served` is."""

    def __init__(self, candidate: str, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(candidate, folder, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.start: Start = self._pipe.recv()

    def chunk(self, request: Request) -> Answer:
        """Returns the seconds that a chunk takes, and its actions."""
        self._pipe.send(request)
        answer: Answer = self._pipe.recv()
        return answer

    def peak_gib(self) -> float:
        """Returns the most memory that the process has had, and ends it."""
        self._pipe.send(None)
        peak: float = self._pipe.recv()
        self._process.join()
        return peak


def measure(
    arguments: Arguments, model: PI0ModelConfig = PI0_BASE, serving: type[Served] | type[Remote] = Remote
) -> dict[str, Any]:
    """Returns the figures of every candidate, and the correlation of their chunks with float32."""
    noise = torch.randn(1, model.horizon, model.action_dim, generator=torch.Generator().manual_seed(SEED))
    seconds: dict[str, dict[str, list[float]]] = {name: {label(case): [] for case in CASES} for name in CANDIDATES}
    actions: dict[str, dict[str, Tensor]] = {name: {} for name in CANDIDATES}
    asked = {name: serving(name, arguments.folder) for name in CANDIDATES}
    for case in CASES:
        present, slots = case
        request = make_batch(present, model.vocab_size), slots, noise
        for turn in range(arguments.rounds + 1):
            for name, candidate in asked.items():
                took, actions[name][label(case)] = candidate.chunk(request)
                if turn:  # the first chunk reads weights from disk
                    seconds[name][label(case)].append(took)
    memory = {name: candidate.peak_gib() for name, candidate in asked.items()}
    judge = serving("float32", arguments.folder)
    exact = {
        label(case): judge.chunk((make_batch(case[0], model.vocab_size), case[1], noise))[1]
        for case in CASES
        if case[0] == case[1]
    }
    judge.peak_gib()
    return {
        "threads": torch.get_num_threads(),
        "candidates": {
            name: {
                "loaded_s": round(candidate.start.loaded, 1),
                "ready_s": round(candidate.start.ready, 1),
                "peak_gib": round(memory[name], 1),
                "chunk_s": {case: round(statistics.median(values), 2) for case, values in seconds[name].items()},
                "pcc_vs_float32": {case: round(correlation(actions[name][case], exact[case]), 6) for case in exact},
            }
            for name, candidate in asked.items()
        },
    }


def measure_starts(folder: Path, serving: "type[Served] | type[Remote]" = Remote) -> dict[str, dict[str, float]]:
    """Returns for each candidate, one after the other, the seconds until it was loaded and until it was ready."""
    starts = {}
    for name in CANDIDATES:
        candidate = serving(name, folder)
        candidate.peak_gib()
        starts[name] = {"loaded_s": round(candidate.start.loaded, 1), "ready_s": round(candidate.start.ready, 1)}
    return starts


def label(case: tuple[int, int]) -> str:
    """Returns how the table calls a case."""
    return f"{case[0]} of {case[1]}"


def correlation(a: Tensor, b: Tensor) -> float:
    """Returns Pearson's correlation coefficient."""
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def as_markdown(measured: dict[str, Any]) -> str:
    """Returns the table for the README."""
    theirs, ours = (measured["candidates"][name] for name in CANDIDATES)
    rows = [("checkpoint to ready, s", theirs["ready_s"], ours["ready_s"])]
    rows += [("checkpoint to ready without warming up, s", theirs["loaded_s"], ours["loaded_s"])]
    rows += [("peak memory, GiB", theirs["peak_gib"], ours["peak_gib"])]
    rows += [
        (f"one chunk, {case} cameras present, s", theirs["chunk_s"][case], ours["chunk_s"][case])
        for case in sorted(ours["chunk_s"], key=lambda case: case[::-1])
    ]
    worst = [min(candidate["pcc_vs_float32"].values()) for candidate in (theirs, ours)]
    cells = [[name, str(a), str(b), f"{a / b:.1f}x" if b else ""] for name, a, b in rows]
    cells.append(["PCC against float32, worst", *(f"{pcc:.6f}" for pcc in worst), ""])
    return markdown_table(["", "LeRobot", "ours", "ratio"], cells)


if __name__ == "__main__":
    main()
