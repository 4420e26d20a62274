"""`lerobot-pi0-ttnn doctor`: whether this machine can run pi0 and pi0.5, and what to do where it cannot.

Each line is ok, warn or fail, with what was found and the fix. Nothing is opened, changed or downloaded; with --open, the card
is opened (and so taken from others meanwhile) for its grid and memory. Exit status 1 where something fails.
"""

import argparse
import ctypes.util
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ...checkpoint import open_weights
from ...checkpoint.files import CheckpointSource
from ...config_loading import load_config
from ...configuration_pi0_ttnn import BACKENDS, PI0TTNNConfig
from ...device.cards import card_nodes, is_locked, visible_nodes
from ...emulation.boards import BOARDS
from ...review import CHECKS, Severity, review
from ...review.tokenizer import check_tokenizer, checkpoint_tokenizer
from ...ttnn_api.installed import ttnn_folder
from . import card, compiler, environment, host, hub, packages
from .finding import Finding, Status

SYS = Path("/sys")
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
HUB_SECONDS = 5.0
OPEN_SECONDS = 300.0


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("doctor", help="whether this machine can run pi0 and pi0.5", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, default="ttnn", help="torch: leave out cards (default: ttnn)")
    parser.add_argument(
        "--checkpoint", metavar="CKPT", help="also: disk, memory and tokenizer for this one, if it is here"
    )
    parser.add_argument("--base-model", help="of a LoRA adapter: a folder or Hub id, if not what its config names")
    parser.add_argument("--open", nargs="?", const="auto", metavar="BOARD", help="also open the board (default: auto)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the findings."""
    if options.open and options.backend == "torch":
        raise ValueError("--open: the torch backend has no board to open")
    findings = check_packages(options.backend)
    if options.backend == "ttnn":
        findings += check_board(options.open)
    findings += check_host(options.checkpoint, options.backend, base_model=options.base_model)
    print(json.dumps([asdict(finding) for finding in findings], indent=2) if options.json else as_text(findings))
    return 1 if any(finding.status == "fail" for finding in findings) else 0


def check_packages(backend: str) -> list[Finding]:
    """Returns the findings about Python and its packages."""
    ours, by_lerobot = packages.requirements(packages.DISTRIBUTION), packages.requirements("lerobot")
    by_ttnn = packages.requirements("ttnn") if backend == "ttnn" else []
    version = packages.installed_version
    findings = [
        packages.check_python(platform.python_version(), packages.python_range(packages.DISTRIBUTION)),
        packages.check_plugin(version(packages.DISTRIBUTION)),
        packages.check_package("lerobot", version("lerobot"), packages.declared_range(ours, "lerobot")),
        packages.check_package("torch", version("torch"), packages.declared_range(by_lerobot, "torch")),
        packages.check_numpy(version("numpy"), *(packages.declared_range(r, "numpy") for r in (by_lerobot, by_ttnn))),
    ]
    if backend == "ttnn":
        installed = version("ttnn")
        failure = packages.import_failure("ttnn") if installed else None
        machine = f"{sys.platform} {platform.machine()}"
        wanted = packages.declared_range(ours, "ttnn")
        findings.append(packages.check_ttnn(installed, wanted, failure, platform=machine))
    return findings


def check_board(to_open: str | None) -> list[Finding]:
    """Returns the findings about what ttnn would compute on."""
    cards, nodes = card.read_cards(SYS), card_nodes()
    findings = [
        card.check_card(cards, nodes, may_open=lambda node: os.access(node, os.R_OK | os.W_OK)),
        card.check_driver(cards, nodes, SYS / "module/tenstorrent"),
        card.check_firmware(cards),
        card.check_clock(cards),
        card.check_processes(nodes, os.environ, visible=visible_nodes, is_locked=is_locked),
        card.check_hugepages(cards, Path("/proc/mounts").read_text(), SYS),
        environment.check_environment(os.environ),
    ]
    package = ttnn_folder()
    if package is not None:
        findings.append(
            compiler.check_compiler(
                Path(os.environ.get(environment.ROOTS[0]) or package),
                compiler.SYSTEM_FOLDER,
                banner=compiler.compiler_banner,
                real_kernels=bool(nodes or cards or os.environ.get(environment.SIMULATOR)),
                machine=platform.machine(),
            )
        )
    if to_open is not None:
        findings.append(open_board_apart(to_open))
    elif nodes:
        findings.append(Finding("grid", "ok", "not asked: `lerobot-pi0-ttnn doctor --open` opens the card and says"))
    return findings


def open_board_apart(name: str) -> Finding:
    """Returns the grid and memory of a board, opened in a process of its own: ttnn may end the one that opens it."""
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from lerobot_pi0_ttnn.cli.doctor.card import read_cards, slow_cards\n"
        "from lerobot_pi0_ttnn.device.board import open_board\n"
        "with open_board(sys.argv[1]) as board:\n"
        "    slow = slow_cards(read_cards(Path('/sys'))) if board.kind == 'card' else ''\n"
        "    print('\\n' + json.dumps({**board.describe(), 'slow': slow}))\n"
    )
    fix = (
        "mend what fails above; if nothing does, `tt-smi -r` resets a card that hangs (it ends whoever uses it), and where "
        "that does not help a Blackhole, switching the machine off and on does"
    )
    try:
        result = subprocess.run(
            [sys.executable, "-c", program, name], capture_output=True, text=True, timeout=OPEN_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding("grid", "fail", f"board {name} did not open within {OPEN_SECONDS:g} s", fix)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or [f"status {result.returncode}"])[-1]
        return Finding("grid", "fail", f"board {name} cannot be opened: {last}", fix)
    described = next(line for line in reversed(result.stdout.splitlines()) if line.startswith("{"))
    return card.check_grid(json.loads(described), {board.grid for board in BOARDS.values()})


def check_host(checkpoint: str | None, backend: str, *, base_model: str | None = None) -> list[Finding]:
    """Returns the findings about caches, tokenizer and rendering, and about a checkpoint if one is named."""
    from huggingface_hub import constants

    home = Path(constants.HF_HOME)
    made_in = hub.existing_folder(home)
    free = shutil.disk_usage(made_in).free
    writable = os.access(made_in, os.W_OK | os.X_OK)
    findings = [
        hub.check_cache(home, writable=writable, free_bytes=free, offline=constants.HF_HUB_OFFLINE),
        tokenizer(checkpoint),
        host.check_gl(os.environ, ctypes.util.find_library),
    ]
    if checkpoint is None:
        return findings
    source = CheckpointSource(checkpoint, local_files_only=True)
    try:
        config = load_config(source, [f"--base_model={base_model}"] if base_model else [])
        findings += review_findings(config, source)
        loader = open_weights(source, base_model)
    except (OSError, ValueError) as error:
        fix = f"name a folder, or fetch it: `hf download {checkpoint}`; `lerobot-pi0-ttnn info` says more"
        return [*findings, Finding("checkpoint", "fail", str(error), fix)]
    limits = [path.read_text() for path in MEMORY_LIMITS if path.is_file()]
    memory = host.read_memory(Path("/proc/meminfo").read_text(), limits)
    parameters = sum(math.prod(shape) for shape in loader.shapes().values())
    size = sum(path.stat().st_size for path in loader.files)
    return [
        *findings,
        Finding("checkpoint", "ok", f"{checkpoint}: {parameters / 1e9:.2f} billion parameters"),
        host.check_disk(parameters, size, free, backend=backend),
        host.check_memory(parameters, memory, backend=backend),
    ]


def review_findings(config: PI0TTNNConfig, source: CheckpointSource) -> list[Finding]:
    """Returns what `review` says of a checkpoint, but for the tokenizer, which has a line anyhow."""
    statuses: dict[Severity, Status] = {"error": "fail", "warning": "warn", "note": "ok"}
    problems = review(config, source, checks=[check for check in CHECKS if check is not check_tokenizer])
    return [
        Finding(problem.subject, status, problem.message, "" if status == "ok" else problem.fix)
        for problem in problems
        for status in [statuses[problem.severity]]
    ]


def tokenizer(checkpoint: str | None) -> Finding:
    """Returns the finding about the tokenizer: the checkpoint's own, or the one that pi0 checkpoints name."""
    from ...checkpoint.tokenizer import NamedTokenizer, TokenizerState, inspect_tokenizer

    google = PI0TTNNConfig.tokenizer_name
    if checkpoint is None:

        def ask() -> NamedTokenizer:
            return NamedTokenizer(google, inspect_tokenizer(google), by_preprocessor=False)
    else:
        source = CheckpointSource(checkpoint, local_files_only=True)
        try:
            config = load_config(source)
        except (OSError, ValueError) as error:
            return Finding("tokenizer", "fail", f"not known: {error}", "name a checkpoint that is here and whole")
        ask = partial(checkpoint_tokenizer, config, source)

    problem = f"not in the Hub's cache, and the Hub did not answer within {HUB_SECONDS:g} s"
    late = NamedTokenizer(
        google, TokenizerState(google, problem=problem, fix="see to the network"), by_preprocessor=True
    )
    return hub.check_tokenizer(hub.within(HUB_SECONDS, ask, otherwise=late))


def as_text(findings: list[Finding]) -> str:
    """Returns the findings as lines for a person."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<5} {finding.check:<16} {finding.found}")
        if finding.fix:
            lines.append(f"{'':<5} {'  fix:':<16} {finding.fix}")
    counts = (f"{sum(finding.status == status for finding in findings)} {status}" for status in ("ok", "warn", "fail"))
    return "\n".join([*lines, ", ".join(counts)])
