"""What the first chunk costs beside later ones, with and without warming up at load: full size, torch backend, one camera.

uv run python -m benchmarks.warm_up            # after benchmarks.lerobot_cpu has made its checkpoint; a minute or two
"""

import argparse
import gc
import time
from pathlib import Path

import torch

from lerobot_pi0_ttnn import PI0TTNNPolicy
from lerobot_pi0_ttnn.analysis.markdown import markdown_table

from .lerobot_cpu import make_batch

CHUNKS = 3


def measure(folder: Path, *, warm_up: bool) -> tuple[float, list[float]]:
    """Returns the seconds until the policy was ready, and those of each of its first chunks."""
    start = time.perf_counter()
    policy = PI0TTNNPolicy.from_pretrained(folder, backend="torch", dtype="bfloat16", warm_up=warm_up)
    ready = time.perf_counter() - start
    chunks = []
    for _ in range(CHUNKS):
        start = time.perf_counter()
        policy.predict_action_chunk(make_batch(1))
        chunks.append(time.perf_counter() - start)
    del policy
    gc.collect()
    return ready, chunks


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmark_checkpoint"))
    folder = parser.parse_args().folder
    print(f"threads: {torch.get_num_threads()}")
    rows = []
    for warm_up in (False, True):
        ready, chunks = measure(folder, warm_up=warm_up)
        rows.append([str(warm_up).lower(), f"{ready:.1f}", f"{chunks[0] / chunks[-1]:.2f}"])
    print(markdown_table(["warm_up", "ready, s", "first chunk / third"], rows))


if __name__ == "__main__":
    main()
