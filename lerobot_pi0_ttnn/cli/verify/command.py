"""`lerobot-pi0-ttnn verify CKPT`: whether a board computes what a checkpoint means, always the same, and how fast.

First light on a card: run it before an arm moves. It asks doctor first, then compares every part, layer and operation with the
float32 twin and with ttnn's golden functions, asks the same again and again, by traces and without, and times chunks. Each kind
of finding says what it means and what to do; with --report they are a page and a JSON to send (docs/verify.md). On an emulated
or a simulated board it says what it cannot show. Exit status 1 where something fails.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...certificate import check_seal
from ...checkpoint import CheckpointWeights
from ...checkpoint.files import CheckpointSource
from ...config_loading import load_config, saved_type
from ...configuration_pi0_ttnn import PRECISIONS, PROGRAMS
from ...device.failure import BoardError, KernelBuildError, error_summary
from ...emulation.boards import PREFIX
from ...model.observation import Observation
from ..bench.command import SYS, positive
from ..doctor.card import read_cards
from ..doctor.command import check_board, check_host, check_packages
from ..hub import add_checkpoint_options, checkpoint_source
from .findings import Line, Lines
from .report import make_report, write_report

SECTIONS = (
    "parts",
    "operations",
    "behaviour",
    "stock",
    "throttle",
    "time",
    "rate",
    "operation times",
    "soak",
    "instruments",
)
TIMES = ("time", "rate", "operation times")
"""Of a card only."""

SUBJECT = (
    "board",
    "precision",
    "programs",
    "throttle",
    "observations",
    "frames",
    "revision",
    "subfolder",
    "base_model",
    "cache_dir",
    "local_files_only",
)
"""Options that say what is checked, and on what."""

REPEATS = {"card": 1000}
"""How often the same is asked, by kind of board; elsewhere, where nothing is random, `FEW_REPEATS`."""
FEW_REPEATS = 4


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "verify", help="whether a board computes what a checkpoint means", description=__doc__
    )
    add_checkpoint_options(parser, "checkpoint")
    parser.add_argument("--board", default="auto", help="as --policy.board (default: auto)")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: the checkpoint's")
    parser.add_argument("--programs", choices=PROGRAMS, help="as --policy.programs (default: the checkpoint's)")
    parser.add_argument(
        "--throttle", type=int, choices=range(6), help="as --policy.throttle (default: the checkpoint's)"
    )
    parser.add_argument(
        "--observations",
        type=Path,
        metavar="FILE|FOLDER",
        help="a LeRobot data set's folder, or a .safetensors file of one observation (default: made up)",
    )
    parser.add_argument("--frames", type=positive, default=1, help="so many of a data set (default: 1)")
    parser.add_argument(
        "--repeats",
        type=positive,
        help=f"of the same observation (default: {REPEATS['card']} on a card, else {FEW_REPEATS})",
    )
    parser.add_argument("--chunks", type=positive, default=100, help="timed calls, on a card (default: 100)")
    parser.add_argument(
        "--minutes", type=positive, default=5, help="of chunks that follow on each other, on a card (default: 5)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default: all)"
    )
    parser.add_argument(
        "--instruments",
        action=argparse.BooleanOptionalAction,
        help="the section `behaviour` once more under ttnn's watcher and its tracker of allocations (default: on a card)",
    )
    parser.add_argument(
        "--soak", type=positive, metavar="MINUTES", help="also ask two policies at random for so long, memory watched"
    )
    parser.add_argument("--seed", type=int, default=0, help="of --soak (default: 0)")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write verify.md, verify.json and tensors there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints lines as they come."""
    source = checkpoint_source(options, "checkpoint")
    config = load_config(source, [f"--base_model={options.base_model}"] if options.base_model else [])
    lines = Lines(lambda text: print(text, flush=True))
    ask_doctor(lines, options)
    about: dict[str, Any] = {"board": None, "observations": None, "why_no_traces": None}
    fingerprint = ""
    if not lines.failed:
        try:
            policy = load(source, options)
        except BoardError as error:
            lines.add(Line("board", "loading", "fail", "board", str(error)))
        else:
            try:
                if isinstance(policy.weights, CheckpointWeights):
                    fingerprint = policy.weights.fingerprint()
                about |= check(policy, source, options, lines)
            finally:
                policy.close()
            run_instruments(options, lines, about["board"], traced=about["why_no_traces"] is None)
    chosen = {name: getattr(config, name) for name in ("precision", "programs", "throttle")}
    given = {name: getattr(options, name) for name in chosen if getattr(options, name) is not None}
    report = make_report(
        lines,
        cards=read_cards(SYS),
        about={
            "checkpoint": {
                "type": saved_type(source),
                "architecture": config.architecture,
                "fingerprint": fingerprint,
            },
            "options": {**chosen, **given, "frames": options.frames, "only": options.only},
            **about,
        },
    )
    check_seal(report)
    if options.report:
        for file in write_report(report, options.report):
            print(file)
    print("passed" if report["passed"] else f"FAILED: {', '.join(lines.kinds)} (docs/verify.md)")
    return 0 if report["passed"] else 1


def ask_doctor(lines: Lines, options: argparse.Namespace) -> None:
    """Adds what doctor complains of; an emulated board needs no card."""
    findings = check_packages("ttnn")
    if not options.board.startswith(PREFIX):
        findings += check_board(None)
    findings += check_host(options.checkpoint, "ttnn", base_model=options.base_model)
    for finding in findings:
        if finding.status != "ok":
            kind = "doctor" if finding.status == "fail" else ""
            lines.add(Line("doctor", finding.check, finding.status, kind, f"{finding.found}; fix: {finding.fix}"))
    good = sum(finding.status == "ok" for finding in findings)
    lines.add(Line("doctor", "the machine", "ok", detail=f"{good} of {len(findings)} checks are ok"))


def load(source: CheckpointSource, options: argparse.Namespace) -> Any:
    """Returns the checkpoint's policy on the board."""
    from ...policy_loading import load_policy

    overrides: dict[str, Any] = {
        "backend": "ttnn",
        "board": options.board,
        "rtc_config": None,
        "recording_path": None,
        # What is checked first finds a model that was asked nothing yet; a card is warmed up before it is timed.
        "warm_up": False,
    }
    for name in ("base_model", "precision", "programs", "throttle"):
        if getattr(options, name) is not None:
            overrides[name] = getattr(options, name)
    return load_policy(
        source.path_or_repo_id,
        revision=source.revision,
        cache_dir=source.cache_dir,
        local_files_only=source.local_files_only,
        subfolder=source.subfolder,
        **overrides,
    )


def check(policy: Any, source: CheckpointSource, options: argparse.Namespace, lines: Lines) -> dict[str, Any]:
    """Returns board, observations and times for the report, having added all lines."""
    from . import checks, endurance, times
    from .observations import read_batches

    kind, batches = read_batches(options.observations, policy.config, source, options.frames)
    board = policy.board
    repeats = options.repeats or REPEATS.get(board.kind, FEW_REPEATS)
    about: dict[str, Any] = {
        "board": board.describe(),
        "observations": f"{len(batches)}, {kind}",
        "why_no_traces": board.why_no_trace,
    }

    def save(name: str, tensors: Mapping[str, Tensor]) -> None:
        if options.report:
            save_tensors(options.report, name, tensors)

    observations = [policy._read(batch) for batch in batches]
    if board.kind != "emulated":
        compile_kernels(policy, observations[0], lines)
    subject = checks.Subject(policy, board, observations, lines, save, repeats, made_up=options.observations is None)
    sections: dict[str, Callable[[], object]] = {
        "parts": partial(checks.check_parts, subject),
        "operations": partial(checks.check_operations, subject),
        "behaviour": partial(checks.check_behaviour, subject),
        "stock": partial(checks.check_stock, subject),
        "throttle": partial(endurance.check_throttle, subject),
        "time": partial(times.check_time, subject, batches[0], options.chunks),
        "rate": partial(times.check_rate, subject, batches[0], options.minutes),
        "operation times": partial(times.check_operation_times, subject),
    }
    if options.soak:
        sections["soak"] = partial(endurance.check_soak, subject, options.soak, options.seed)
    for name, section in sections.items():
        if options.only and name not in options.only:
            continue
        if name in TIMES and board.kind != "card":
            detail = f"{board.name} ({board.kind}) is no card"
            lines.add(Line(name, "milliseconds", "skip", detail=detail))
            continue
        try:
            with board.in_use(f"verifying: {name}"):
                found = section()
        except KeyboardInterrupt:
            # What was found in hours is not lost with it.
            lines.add(
                Line(name, "interrupted", "fail", "interrupted", "the rest of it, and what comes after, was not tried")
            )
            break
        except BoardError as error:
            lines.add(Line("board", board.doing, "fail", "board", str(error)))
            break
        except KernelBuildError as error:
            lines.add(Line(name, "ended early", "fail", "kernel", str(error)))
        except RuntimeError as error:
            # ttnn refuses an operation, and the board is as it was: what comes next may pass without it.
            lines.add(Line(name, "ended early", "fail", "refused", error_summary(error)))
        else:
            if found is not None:
                about[name.replace(" ", "_")] = found
    return about


def compile_kernels(policy: Any, observation: Observation, lines: Lines) -> None:
    """Runs a chunk under a progress bar, for the first one compiles kernels for minutes; adds whether all of them compile."""
    from ...device.compiling import compiling

    start, model = time.monotonic(), policy.model
    noise = torch.zeros(1, model.config.horizon, model.config.action_dim)
    try:
        with policy.board.in_use("compiling kernels"), compiling(model):
            model.sample_actions(observation, num_steps=1, noise=noise)
            model.forget()
    except KernelBuildError as error:
        lines.add(Line("kernels", "compile", "fail", "kernel", str(error)))
    else:
        seconds = time.monotonic() - start
        lines.add(
            Line(
                "kernels", "compile", "ok", detail=f"{seconds:.0f} s, of which the next process finds what was compiled"
            )
        )


def run_instruments(
    options: argparse.Namespace, lines: Lines, board: Mapping[str, Any] | None, *, traced: bool
) -> None:
    """Runs ttnn's own instruments, in processes that have the board for themselves, where they are asked for."""
    from .endurance import check_by_instruments

    if (options.only and "instruments" not in options.only) or options.instruments is False or board is None:
        return
    if any(line.kind in ("board", "interrupted") for line in lines.failed):
        return
    if board["kind"] == "emulated" or not (options.instruments or board["kind"] == "card"):
        detail = "no kernel runs on an emulated board" if board["kind"] == "emulated" else "ask for them: --instruments"
        lines.add(Line("instruments", "ttnn's watcher, its tracker of allocations", "skip", detail=detail))
        return
    arguments = [str(options.checkpoint)]
    for name in SUBJECT:
        if (value := getattr(options, name)) not in (None, False):
            arguments += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    check_by_instruments(lines, arguments, traced=traced)


def save_tensors(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors of a finding beside the report; inputs of the first operations hold the user's pictures."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {each: tensor.contiguous().clone() for each, tensor in tensors.items()},
        folder / f"{name.replace(' ', '_')}.safetensors",
    )
