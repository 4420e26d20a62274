"""A full-size checkpoint onto a board: seconds and host memory of the first start, which converts, and of the second.

    uv run python -m benchmarks.weight_conversion          # about 10 minutes, 11 GB of disk

The board is an emulated p150 whose values nobody follows: ttnn rounds, packs, allocates and writes as for a card, and the
bytes end where a card would be. Uses the checkpoint that lerobot_cpu.py makes. Prints JSON lines, one for each start.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from lerobot_pi0_ttnn.model.config import PI0_BASE, PI0ModelConfig

from .lerobot_cpu import make_checkpoint

SAMPLE_SECONDS = 0.05


def main() -> None:
    """Runs two starts, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmark_checkpoint"))
    parser.add_argument("--cache", type=Path, default=Path("outputs/benchmark_weight_cache"))
    parser.add_argument("--start", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.start:
        print(json.dumps({"start": options.start} | start(options.folder, options.cache)))
        return
    make_checkpoint(options.folder)
    shutil.rmtree(options.cache, ignore_errors=True)
    for name in ("first", "second"):
        command = [sys.executable, "-m", "benchmarks.weight_conversion", *sys.argv[1:], "--start", name]
        subprocess.run(command, check=True)


def start(folder: Path, cache: Path, config: PI0ModelConfig = PI0_BASE) -> dict[str, float]:
    """Returns the seconds and the peak host memory of loading a checkpoint of these sizes onto the board."""
    from lerobot_pi0_ttnn import PI0WeightLoader
    from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
    from lerobot_pi0_ttnn.device.weight_cache import WeightCache
    from lerobot_pi0_ttnn.emulation.session import open_emulated

    (device,), emulator = open_emulated("p150")
    emulator.stop()
    memory = PeakMemory()
    began = time.perf_counter()
    weights = PI0WeightLoader(folder)
    key = {"checkpoint": weights.fingerprint(), "precision": "balanced", "board": "blackhole"}
    PI0ModelTTNN(config, weights, device, precision="balanced", cache=WeightCache(cache, key))
    return {"seconds": round(time.perf_counter() - began, 1)} | memory.stop()


class PeakMemory:
    """Samples this process's memory: all that is resident, and the part that is not pages of files."""

    def __init__(self) -> None:
        self._before = self._sample()
        self._peak = dict(self._before)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _sample(self) -> dict[str, int]:
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        return {name: int(fields[name].split()[0]) // 1024 for name in ("VmRSS", "RssAnon")}

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._keep()

    def _keep(self) -> None:
        self._peak = {name: max(self._peak[name], value) for name, value in self._sample().items()}

    def stop(self) -> dict[str, float]:
        """Returns MiB: before, and the greatest seen since."""
        self._stop.set()
        self._thread.join()
        self._keep()
        return {
            "resident_before_mib": self._before["VmRSS"],
            "resident_peak_mib": self._peak["VmRSS"],
            "anonymous_peak_mib": self._peak["RssAnon"],
        }


if __name__ == "__main__":
    main()
