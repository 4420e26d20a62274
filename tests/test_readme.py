"""The README's own lines, run."""

import re
from pathlib import Path

from lerobot_pi0_ttnn.demo.stand_in import make_demo_checkpoint

README = Path(__file__).parents[1] / "README.md"


def test_first_action_chunk(tmp_path, run_python):
    make_demo_checkpoint(tmp_path / "outputs" / "demo_pusht" / "checkpoint", "pusht")
    program = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    printed = run_python(program, folder=tmp_path)
    assert re.fullmatch(r"tensor\(\[\[ *-?\d+\.\d+, +-?\d+\.\d+\]\]\)\n", printed)


def test_the_steps_by_hand_are_the_demos(capsys, tmp_path, monkeypatch):
    from lerobot_pi0_ttnn.cli import main

    monkeypatch.chdir(tmp_path)
    main(["demo", "--prepare-only"])
    printed = [line.removeprefix("$ ") for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    by_hand = re.search(r"## The demo, step by step\n+```sh\n(.*?)```", README.read_text(), re.DOTALL).group(1)
    words = by_hand.replace("\\\n", " ").replace("uv run ", "").split()
    for line in printed:
        assert " ".join(line.split()) in " ".join(words)
