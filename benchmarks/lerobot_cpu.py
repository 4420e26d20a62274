"""pi0 on this CPU: LeRobot's PI0Policy against this package's torch backend, full size, bfloat16.

    uv run python benchmarks/lerobot_cpu.py            # about 15 minutes, 8 GB of disk, 20 GB of memory

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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


def main() -> None:
    """Runs the benchmark."""
    arguments = parse_arguments()
    make_checkpoint(arguments.folder)
    table = measure(arguments)
    print(as_markdown(table))
    print(json.dumps(table))


def parse_arguments() -> Arguments:
    """Returns the command line's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmark_checkpoint"))
    parser.add_argument("--rounds", type=int, default=3)
    return Arguments(**vars(parser.parse_args()))


def make_checkpoint(folder: Path) -> None:
    """Makes a `type: pi0` folder in the layout of the Hub's pi0_base: no prefix, embedding tied to lm_head."""
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.pi0.configuration_pi0 import PI0Config

    from lerobot_pi0_ttnn.checkpoint.layout import EMBEDDING, LM_HEAD
    from lerobot_pi0_ttnn.demo.checkpoint import write_random_weights
    from lerobot_pi0_ttnn.model_config import PI0_BASE
    from lerobot_pi0_ttnn.weights import expected_shapes

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
        shapes = {LM_HEAD if name == EMBEDDING else name: shape for name, shape in expected_shapes(PI0_BASE).items()}
        shapes["paligemma_with_expert.gemma_expert.lm_head.weight"] = (PI0_BASE.vocab_size, PI0_BASE.expert.width)
        write_random_weights(weights, shapes, seed=SEED, dtype=torch.bfloat16)


def make_batch(cameras: int) -> dict[str, Tensor]:
    """Returns one observation as LeRobot's preprocessor hands it over: 480x640 images, a prompt of 12 tokens."""
    generator = torch.Generator().manual_seed(SEED)
    batch = {
        f"observation.images.{name}": torch.rand(1, 3, 480, 640, generator=generator) for name in CAMERAS[:cameras]
    }
    batch["observation.state"] = torch.randn(1, 14, generator=generator)
    tokens = torch.zeros(1, 48, dtype=torch.long)
    tokens[0, :12] = torch.randint(3, 250_000, (12,), generator=generator)
    return batch | {"observation.language.tokens": tokens, "observation.language.attention_mask": tokens != 0}


def load(candidate: str, folder: Path) -> torch.nn.Module:
    """Returns the policy of a candidate; the third candidate, `float32`, is the judge."""
    if candidate == CANDIDATES[0]:
        from lerobot.policies.pi0.modeling_pi0 import PI0Policy

        return PI0Policy.from_pretrained(folder)
    from lerobot_pi0_ttnn import PI0TTNNPolicy

    dtype = "float32" if candidate == "float32" else "bfloat16"
    return PI0TTNNPolicy.from_pretrained(folder, backend="torch", dtype=dtype)


def serve(candidate: str, folder: Path, pipe: multiprocessing.connection.Connection) -> None:
    """Loads one policy, answers requests (present, slots, noise) with (seconds, actions), and None with its peak memory."""
    start = time.perf_counter()
    policy = load(candidate, folder)
    pipe.send(time.perf_counter() - start)
    features = dict(policy.config.input_features)
    with torch.inference_mode():
        while (request := pipe.recv()) is not None:
            present, slots, noise = request
            batch = make_batch(present)
            if candidate == CANDIDATES[0]:  # ours spends nothing on a slot that is empty
                kept = [f"observation.images.{camera}" for camera in CAMERAS[:slots]] + ["observation.state"]
                policy.config.input_features = {name: features[name] for name in kept}
            start = time.perf_counter()
            actions = policy.predict_action_chunk(batch, noise=noise)
            pipe.send((time.perf_counter() - start, actions))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


@contextmanager
def worker(candidate: str, folder: Path) -> Iterator[tuple[float, Callable[[object], object]]]:
    """Yields the seconds until the policy was ready, and the function that sends it a request and returns its answer."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(candidate, folder, theirs), daemon=True)
    process.start()
    theirs.close()

    def ask(request: object) -> object:
        ours.send(request)
        return ours.recv()

    try:
        yield ours.recv(), ask
    finally:
        process.terminate()
        process.join()


def measure(arguments: Arguments) -> dict[str, Any]:
    """Returns the figures of every candidate, and the correlation of their chunks with float32."""
    noise = torch.randn(1, 50, 32, generator=torch.Generator().manual_seed(SEED))
    seconds: dict[str, dict[str, list[float]]] = {name: {label(case): [] for case in CASES} for name in CANDIDATES}
    actions: dict[str, dict[str, Tensor]] = {name: {} for name in CANDIDATES}
    with (
        worker(CANDIDATES[0], arguments.folder) as (theirs_ready, theirs),
        worker(CANDIDATES[1], arguments.folder) as (ours_ready, ours),
    ):
        for case in CASES:
            for turn in range(arguments.rounds + 1):
                for name, ask in zip(CANDIDATES, (theirs, ours), strict=True):
                    took, actions[name][label(case)] = ask((*case, noise))
                    if turn:  # the first chunk reads weights from disk
                        seconds[name][label(case)].append(took)
        memory = dict(zip(CANDIDATES, (theirs(None), ours(None)), strict=True))
    with worker("float32", arguments.folder) as (_, judge):
        exact = {label(case): judge((*case, noise))[1] for case in CASES if case[0] == case[1]}
    return {
        "threads": torch.get_num_threads(),
        "candidates": {
            name: {
                "ready_s": round(ready, 1),
                "peak_gib": round(memory[name], 1),
                "chunk_s": {case: round(statistics.median(values), 2) for case, values in seconds[name].items()},
                "pcc_vs_float32": {case: round(correlation(actions[name][case], exact[case]), 6) for case in exact},
            }
            for name, ready in zip(CANDIDATES, (theirs_ready, ours_ready), strict=True)
        },
    }


def label(case: tuple[int, int]) -> str:
    """Returns how the table calls a case."""
    return f"{case[0]} of {case[1]}"


def correlation(a: Tensor, b: Tensor) -> float:
    """Returns Pearson's correlation coefficient."""
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def as_markdown(table: dict[str, Any]) -> str:
    """Returns the table for the README."""
    theirs, ours = (table["candidates"][name] for name in CANDIDATES)
    rows = [("checkpoint to ready, s", theirs["ready_s"], ours["ready_s"])]
    rows += [("peak memory, GiB", theirs["peak_gib"], ours["peak_gib"])]
    rows += [
        (f"one chunk, {case} cameras present, s", theirs["chunk_s"][case], ours["chunk_s"][case])
        for case in sorted(ours["chunk_s"], key=lambda case: case[::-1])
    ]
    worst = [min(candidate["pcc_vs_float32"].values()) for candidate in (theirs, ours)]
    lines = ["| | LeRobot | ours | ratio |", "|---|---|---|---|"]
    lines += [f"| {name} | {a} | {b} | {a / b:.1f}x |" for name, a, b in rows]
    return "\n".join([*lines, f"| PCC against float32, worst | {worst[0]:.6f} | {worst[1]:.6f} | |"])


if __name__ == "__main__":
    main()
