"""Every command that README and docs publish: it is there, takes these options, and finds these tests.

Those of LeRobot's, and whole scripts, are parsed in `test_examples.py`.
"""

import argparse
import re
import shlex
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from lerobot_pi0_ttnn import cli
from lerobot_pi0_ttnn.cli.serve.command import parse_flags, read_protocol
from lerobot_pi0_ttnn.cli.serve.openpi.command import parse_flags as parse_flags_of_openpi

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("lerobot-pi0-ttnn", "python", "pytest")
ENVIRONMENT = re.compile(r"\w+=\S*")


def commands(page: Path):
    """Yields (what stands there, words, whether it is only mentioned in a sentence)."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    fenced = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    inline = [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", text)]
    for found, is_mention in [(fenced + indented, False), (inline, True)]:
        for line in found:
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # no command
                continue
            while words and ENVIRONMENT.fullmatch(words[0]):
                words.pop(0)
            words = words[2:] if words[:2] == ["uv", "run"] else words
            if words and words[0] in PROGRAMS:
                yield line.strip(), [word for word in words if word != "..."], is_mention


def published(program: str):
    return [
        pytest.param(words[1:], is_mention, id=f"{page.name}: {line}")
        for page in PAGES
        for line, words, is_mention in commands(page)
        if words[0] == program
    ]


class Parsed(Exception):  # noqa: N818 - nothing is wrong
    """The command line is understood; there is nothing more to find out."""


@pytest.fixture
def only_parsed(monkeypatch):
    original = argparse.ArgumentParser.parse_args

    def parse(parser, *arguments):
        original(parser, *arguments)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)


@pytest.mark.parametrize(("words", "is_mention"), published("lerobot-pi0-ttnn"))
def test_ours(words, is_mention, only_parsed, capsys):
    if words[:1] == ["serve"]:
        protocol, flags = read_protocol(words[1:])
        with suppress(Parsed):
            {"lerobot": parse_flags, "openpi": parse_flags_of_openpi}[protocol](flags)
        return
    try:
        cli.main(words)
    except Parsed:
        return
    except SystemExit:
        complaint = capsys.readouterr().err
        # A sentence need not give all that a command needs.
        assert is_mention, complaint
        assert "the following arguments are required" in complaint
        assert words[0] in cli.SUBCOMMANDS


@pytest.mark.parametrize(("words", "is_mention"), published("python"))
def test_a_module(words, is_mention, only_parsed, monkeypatch):
    assert words[0] == "-m", "a file of ours is a module of a package"
    if not words[1].startswith("benchmarks."):
        assert find_spec(words[1])
        return
    if find_spec("ttnn") is None:
        pytest.skip("the TTNN backend's package is not installed")
    monkeypatch.setattr("sys.argv", words[1:])
    with pytest.raises(Parsed):
        import_module(words[1]).main()


@pytest.mark.parametrize(("words", "is_mention"), published("pytest"))
def test_tests(words, is_mention, run_python):
    """They are found, and take these options."""
    program = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    where = [] if any(word.startswith("tests/") for word in words) else ["tests/device"]
    run_python(program, ["--collect-only", "-q", "-p", "no:cacheprovider", *words, *where], folder=ROOT)


def test_commands_are_found():
    """And not lost with the way they are written."""
    assert {program: len(published(program)) > 3 for program in PROGRAMS} == dict.fromkeys(PROGRAMS, True)
    modules = {words[1] for parameters in published("python") for words in parameters.values[:1]}
    printing = {f"benchmarks.{p.stem}" for p in (ROOT / "benchmarks").glob("*.py") if "def main" in p.read_text()}
    assert printing <= modules, "a benchmark whose command no page names"
