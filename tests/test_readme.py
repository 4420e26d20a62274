"""README's and docs' own lines, run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_first_action_chunk(run_python):
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    printed = run_python(program, folder=ROOT)
    assert re.fullmatch(r"tensor\(\[\[( *-?\d+\.\d+,?){4}\]\]\)\n", printed)


def test_the_steps_by_hand_are_the_demos(capsys, monkeypatch):
    pytest.importorskip("metaworld", reason="LeRobot's environment is not installed")
    from lerobot_pi0_ttnn.cli import main

    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    main(["demo", "--prepare-only", "--board", "emulated:n150"])
    printed = [line.removeprefix("$ ") for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    page = (ROOT / "docs/simulation.md").read_text()
    by_hand = re.search(r"### The demo, step by step\n+```sh\n(.*?)```", page, re.DOTALL).group(1)
    words = by_hand.replace("\\\n", " ").replace("uv run ", "").split()
    assert len(printed) == 2
    for line in printed:
        assert " ".join(line.split()) in " ".join(words)
