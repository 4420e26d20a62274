"""How often the learned checkpoint solves its tasks, by who computes: the same seeds, the same noise, episode by episode.

    uv run python -m benchmarks.success                    # the table of docs/success.md; hours on two cores
    uv run python -m benchmarks.success --who torch --controls image prompt state
    uv run python -m benchmarks.success --who torch --delays 0 2 4 8
    uv run python -m benchmarks.success --model pi05

What has been played already is not played again: the outcomes are kept, a file for each task and policy.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lerobot_pi0_ttnn.analysis.markdown import markdown_table
from lerobot_pi0_ttnn.demo import LEARNED_CHECKPOINTS
from training.closed_loop import CONTROLS, WHO, Outcomes, Series
from training.tasks import OPPOSITE, TASKS

CONFIDENCE = 1.96
"""Standard deviations of a normal distribution: 95 %."""


def play(task: str, all_series: Sequence[Series], options: argparse.Namespace) -> None:
    """Plays one task in all the ways that have not been played, in a process of its own."""
    left = [series for series in all_series if not is_played(series, task, options)]
    if not left:
        return
    names = [series.name for series in sorted(left, key=lambda series: series.who)]  # each policy is loaded once
    command = [sys.executable, "-m", "training.closed_loop", task, *names, "--output", str(options.output)]
    settings = ["--episodes", str(options.episodes), "--checkpoint", str(options.checkpoint), "--board", options.board]
    # LP: of Mesa's software renderer.
    one_thread = {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (options.output / f"{task}.log").open("w") as log:
        played = subprocess.run([*command, *settings], env=os.environ | one_thread, check=False, stderr=log)
    if played.returncode:
        raise ChildProcessError(f"{task}: see {log.name}")


def is_played(series: Series, task: str, options: argparse.Namespace) -> bool:
    """Returns whether the outcomes of as many episodes are there."""
    return series.path(options.output, task).exists() and (
        len(read(series, task, options.output).solved) >= options.episodes
    )


def read(series: Series, task: str, folder: Path) -> Outcomes:
    """Returns the outcomes of one task."""
    return Outcomes(**json.loads(series.path(folder, task).read_text()))


def tasks_of(series: Series, tasks: Sequence[str]) -> list[str]:
    """Returns the tasks that it can be played on."""
    return [task for task in tasks if series.control != "prompt" or task in OPPOSITE]


def interval(solved: int, episodes: int) -> tuple[float, float]:
    """Returns Wilson's 95 % confidence interval of a success rate, in percent."""
    share, weight = solved / episodes, CONFIDENCE**2 / episodes
    middle = (share + weight / 2) / (1 + weight)
    reach = CONFIDENCE * math.sqrt(share * (1 - share) / episodes + weight / episodes / 4) / (1 + weight)
    return 100 * (middle - reach), 100 * (middle + reach)


def table(all_series: Sequence[Series], tasks: Sequence[str], folder: Path) -> str:
    """Returns a Markdown table: successes of episodes by task, the rate with its interval, mean steps of a success."""
    header = ["", *(task.removesuffix("-v3") for task in tasks), "all, % (95 %)", "mean steps of a success", "chunks"]
    rows = []
    for series in all_series:
        played = {task: read(series, task, folder) for task in tasks_of(series, tasks)}
        solved = [value for outcomes in played.values() for value in outcomes.solved]
        steps = [s for o in played.values() for s, done in zip(o.steps, o.solved, strict=True) if done]
        low, high = interval(sum(solved), len(solved))
        cells = [f"{sum(played[t].solved)}/{len(played[t].solved)}" if t in played else "" for t in tasks]
        rate = f"{100 * sum(solved) / len(solved):.1f} ({low:.1f} to {high:.1f})"
        mean = f"{sum(steps) / len(steps):.1f}" if steps else ""
        chunks = sum(outcomes.chunks for outcomes in played.values())
        rows.append([series.name, *cells, rate, mean, str(chunks)])
    return markdown_table(header, rows, text=header)


@dataclass(frozen=True)
class Delayed:
    """What came of all tasks at one delay."""

    rate: float
    """Of success, percent."""
    interval: tuple[float, float]
    jump: float
    """Mean of `Episode.jump`."""

    def cells(self) -> list[str]:
        """Returns two cells of a table: success and jump."""
        return [f"{self.rate:.1f} ({self.interval[0]:.1f} to {self.interval[1]:.1f})", f"{self.jump:.3f}"]


def delayed(who: str, delay: int, *, rtc: bool, tasks: Sequence[str], folder: Path) -> Delayed:
    """Returns what came of all tasks at one delay."""
    played = [read(Series(who, delay=delay, rtc=rtc), task, folder) for task in tasks]
    solved = [value for outcomes in played for value in outcomes.solved]
    jumps = [jump for outcomes in played for jump in outcomes.jumps if not math.isnan(jump)]
    rate = 100 * sum(solved) / len(solved)
    return Delayed(rate, interval(sum(solved), len(solved)), sum(jumps) / len(jumps))


def draw_delays(without: Mapping[int, Delayed], with_rtc: Mapping[int, Delayed], output: Path) -> None:
    """Writes the picture of success, and of how far actions jump between chunks, against the delay."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    rate, smoothness = figure.subplots(1, 2)
    for results, label in ((without, "without RTC"), (with_rtc, "with RTC")):
        rates = [result.rate for result in results.values()]
        errors = [(r.rate - r.interval[0], r.interval[1] - r.rate) for r in results.values()]
        rate.errorbar(list(results), rates, yerr=list(zip(*errors, strict=True)), marker="o", capsize=3, label=label)
        smoothness.plot(list(results), [r.jump for r in results.values()], marker="o", label=label)
    for panel, title in ((rate, "success, %"), (smoothness, "mean jump of an action between chunks")):
        panel.set(xlabel="inference delay, ticks", ylabel=title, xticks=list(without))
        panel.legend()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)


def main() -> None:
    """Plays what has not been played, prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.success", description=__doc__)
    parser.add_argument(
        "--who", nargs="+", choices=WHO, default=["lerobot", "torch", "torch-bfloat16", "accurate", "balanced"]
    )
    parser.add_argument("--controls", nargs="*", choices=CONTROLS, default=[])
    parser.add_argument(
        "--delays", nargs="*", type=int, default=[], help="ticks; each with and without RTC, for the first of --who"
    )
    parser.add_argument("--plot", type=Path, help="of the delays")
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--board", default="emulated:n150")
    parser.add_argument("--model", choices=LEARNED_CHECKPOINTS, default="pi0")
    parser.add_argument("--checkpoint", type=Path, help="default: the package's own of --model")
    parser.add_argument("--output", type=Path, help="default: outputs/success, or outputs/success_pi05")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.checkpoint = options.checkpoint or LEARNED_CHECKPOINTS[options.model]
    options.output = options.output or Path("outputs") / {"pi0": "success", "pi05": "success_pi05"}[options.model]
    options.output.mkdir(parents=True, exist_ok=True)
    all_series = [Series(who) for who in options.who]
    all_series += [Series(who, control) for who in options.who for control in options.controls]
    all_series += [Series(options.who[0], delay=d, rtc=rtc) for d in options.delays for rtc in (False, True)]
    all_series = list(dict.fromkeys(all_series))
    with ThreadPoolExecutor(options.jobs) as pool:
        ways = {task: [s for s in all_series if task in tasks_of(s, options.tasks)] for task in options.tasks}
        list(pool.map(lambda task: play(task, ways[task], options), options.tasks))
    print(table(all_series, options.tasks, options.output))
    if options.delays:
        without, with_rtc = (
            {
                delay: delayed(options.who[0], delay, rtc=rtc, tasks=options.tasks, folder=options.output)
                for delay in options.delays
            }
            for rtc in (False, True)
        )
        header = ["delay, ticks", "success, % (95 %)", "jump", "with RTC: success", "jump"]
        rows = [[str(delay), *without[delay].cells(), *with_rtc[delay].cells()] for delay in options.delays]
        print("\n" + markdown_table(header, rows, text=[header[1], header[3]]))
        if options.plot:
            draw_delays(without, with_rtc, options.plot)


if __name__ == "__main__":
    main()
