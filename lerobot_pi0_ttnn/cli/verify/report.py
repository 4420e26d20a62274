"""The report to paste: one Markdown page and one JSON. They name versions, board and checkpoint, no path, no user, no host."""

from __future__ import annotations

import getpass
import json
import math
import platform
import re
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...analysis.markdown import markdown_table
from ...certificate import check_seal, sealed
from ..doctor.card import Card
from ..doctor.packages import DISTRIBUTION, installed_version
from .findings import ADVICE, Lines
from .plot import draw

JSON_FILE, PAGE = "verify.json", "verify.md"
CALIBRATION, PLOT = "calibration.json", "operation_times.png"
SHOWN_OPERATIONS = 30
"""Of those that were timed, on the page; the JSON has them all."""
PACKAGES = (DISTRIBUTION, "lerobot", "ttnn", "torch")
LOCAL = re.compile(r"(?<![\w./:<])(?:~|\.{1,2})?/(?:[^\s/:'\"`,;()|]+/)+[^\s/:'\"`,;()|]*")
"""A path of two names or more."""


def make_report(lines: Lines, *, cards: list[Card], about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all that is known of a run, as JSON values, sealed by its content.

    Args:
        lines: what was found.
        cards: of this machine.
        about: board, checkpoint, options.
    """
    report = {
        "format": 1,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "passed": not lines.failed,
        "findings": lines.kinds,
        "versions": {"python": platform.python_version(), **{name: installed_version(name) for name in PACKAGES}},
        "cards": [
            {"product": card.product, "arch": card.arch, "firmware": card.firmware, "clock_mhz": card.clock}
            for card in cards
        ],
        **about,
        "lines": [
            {
                "section": line.section,
                "what": line.what,
                "status": line.status,
                "finding": line.kind,
                "detail": line.detail,
                "numbers": dict(line.numbers),
            }
            for line in lines.all
        ],
    }
    return sealed(_plain(report))


def write_report(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Returns the files that it is written to."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    files = {folder / JSON_FILE: text, folder / PAGE: as_page(report)}
    times = report.get("operation_times", {})
    if "calibration" in times:
        files[folder / CALIBRATION] = json.dumps(times["calibration"], indent=2, allow_nan=False) + "\n"
    for file, content in files.items():
        file.write_text(content)
    if times.get("rows"):
        draw(times["rows"], folder / PLOT)
        return [*files, folder / PLOT]
    return list(files)


def certificate_lines(file: Path, fingerprint: str) -> list[str]:
    """Returns what a report says, for people, and whether it is of this checkpoint.

    Args:
        file: the JSON.
        fingerprint: of the checkpoint, see `CheckpointWeights.fingerprint`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such report, or was edited.
    """
    try:
        report = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: no JSON: {error}; expected the {JSON_FILE} of `verify --report`") from None
    try:
        check_seal(report)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file}: {error}") from None
    board, failed = report["board"], [line for line in report["lines"] if line["status"] == "fail"]
    where = f"{board['name']} ({board['kind']}, {board['arch']})" if board else "no board"
    if report["checkpoint"]["fingerprint"] == fingerprint:
        of_this = "of this checkpoint"
    else:
        of_this = "of ANOTHER checkpoint, or of this one before its files were changed or copied"
    options = ", ".join(f"{name} {value}" for name, value in report["options"].items())
    return [
        f"certificate    {'passed' if report['passed'] else 'FAILED'} on {where}, {report['made']}, {of_this}",
        f"  {options}; ttnn {report['versions']['ttnn']}",
        *(f"  fails: {line['section']}, {line['what']}: {line['detail']}" for line in failed),
    ]


def as_page(report: Mapping[str, Any]) -> str:
    """Returns the page."""
    board, checkpoint = report["board"], report["checkpoint"]
    where = (
        f"{board['name']} ({board['kind']}, {board['arch']}, {board['grid'][0]} x {board['grid'][1]} workers)"
        if board
        else "not opened"
    )
    rows = [
        ["result", "passed" if report["passed"] else "FAILED"],
        ["board", where],
        *(["card", f"{card['product']}, firmware {card['firmware'] or 'unknown'}"] for card in report["cards"]),
        ["versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())],
        ["checkpoint", f"{checkpoint['type']} ({checkpoint['architecture']}), {checkpoint['fingerprint'][:16]}"],
        ["options", ", ".join(f"{name} {value}" for name, value in report["options"].items())],
        ["made", report["made"]],
        ["sha256 of the JSON", report["sha256"]],
    ]
    parts = ["# lerobot-pi0-ttnn verify", markdown_table(["", "what"], rows, text=["what"])]
    if report["findings"]:
        parts.append("## Findings")
        parts += [f"**{kind}**: {ADVICE[kind].meaning} {ADVICE[kind].action}" for kind in report["findings"]]
    lines = report["lines"]
    for section in dict.fromkeys(line["section"] for line in lines):
        cells = [
            [line["what"], line["status"], _numbers(line["numbers"]), line["detail"]]
            for line in lines
            if line["section"] == section
        ]
        titles = ["what", "status", "numbers", "detail"]
        parts += [f"## {section}", markdown_table(titles, cells, text=titles)]
    if rows := report.get("operation_times", {}).get("rows"):
        parts += ["## what each operation would save, were it as fast as predicted", _operation_table(rows)]
        parts.append(f"![measured against predicted]({PLOT})")
    return "\n\n".join(parts) + "\n"


def _operation_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["operation", "program", "stage", "count", "us", "predicted us", "saves ms"]
    keys = ("operation", "program", "stage", "count", "us", "predicted_us", "saves_ms")
    cells = [[str(row[key]) for key in keys] for row in rows[:SHOWN_OPERATIONS]]
    return markdown_table(header, cells, text=["program", "stage"])


def _numbers(numbers: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers.items()
    )


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it: without NaN, and without what only this machine's owner should read."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return without_names(value) if isinstance(value, str) else value


def without_names(text: str) -> str:
    """Returns a text without paths and without the names of user and host."""
    text = LOCAL.sub("<path>", text)
    for name, stands_for in ((getpass.getuser(), "<user>"), (socket.gethostname(), "<host>")):
        # `root` and `localhost` say nothing of anyone.
        if len(name) > 2 and name not in ("root", "localhost"):
            text = re.sub(rf"\b{re.escape(name)}\b", stands_for, text)
    return text
