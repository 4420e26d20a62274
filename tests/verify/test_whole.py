"""`lerobot-pi0-ttnn verify` as a whole: it passes where all is well, asks what it is given, and reports without names."""

import getpass
import json
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.certificate import check_seal  # noqa: E402
from lerobot_pi0_ttnn.cli import main  # noqa: E402
from lerobot_pi0_ttnn.cli.verify import checks  # noqa: E402
from lerobot_pi0_ttnn.cli.verify.findings import ADVICE, Line, Lines  # noqa: E402
from lerobot_pi0_ttnn.cli.verify.report import make_report, without_names  # noqa: E402
from tests.oracle import CAMERAS  # noqa: E402


class TestWhole:
    def test_a_good_one_passes(self, checkpoint, board, tmp_path, capsys):
        command = [
            "verify",
            str(checkpoint),
            "--board",
            board.name,
            "--repeats",
            "2",
            "--report",
            str(tmp_path / "report"),
        ]
        status = main(command)
        printed = capsys.readouterr().out
        assert status == 0, printed
        assert printed.splitlines()[-1] == "passed"
        report = json.loads((tmp_path / "report" / "verify.json").read_text())
        check_seal(report)
        sections = list(dict.fromkeys(line["section"] for line in report["lines"]))
        want = ["doctor", "parts", "layers", "operations", "behaviour", "stock", "throttle"]
        assert sections == [*want, "time", "rate", "operation times", "instruments"]
        cannot = [line["what"] for line in report["lines"] if line["status"] == "skip"]
        assert cannot == ["kernels", "traces", *3 * ["milliseconds"], "ttnn's watcher, its tracker of allocations"]
        names = [line["what"] for line in report["lines"] if line["section"] == "layers"]
        want = [*(f"SigLIP, layer {n}" for n in range(2)), *(f"prefix, layer {n}" for n in range(2))]
        want += [f"expert, layer {n}" for n in range(3)]
        assert names == want
        errors = [line["numbers"]["rel_rmse"] for line in report["lines"] if line["section"] in ("parts", "layers")]
        assert all(0 < error < 0.04 for error in errors)
        limits = {line["what"]: line["numbers"].get("limit") for line in report["lines"]}
        assert limits["whole chunk"] == limits["given: chunk"] == pytest.approx(3 * 0.03), "the observation is made up"
        page = (tmp_path / "report" / "verify.md").read_text()
        for text in (page, json.dumps(report)):
            for name in (str(checkpoint), "secret-project", str(tmp_path), socket.gethostname(), "/home/"):
                assert name not in text
        assert not list((tmp_path / "report").glob("*.safetensors"))

    def test_a_machine_that_is_not_ready_ends_it(self, checkpoint, board, monkeypatch, capsys):
        monkeypatch.setattr(
            "lerobot_pi0_ttnn.cli.doctor.packages.import_failure", lambda name: "libnuma.so.1 is missing"
        )
        assert main(["verify", str(checkpoint), "--board", board.name]) == 1
        printed = capsys.readouterr().out
        assert "libnuma.so.1" in printed
        assert "parts" not in printed

    def test_ctrl_c_loses_nothing(self, checkpoint, board, monkeypatch, capsys, tmp_path):
        """A run takes hours on a simulator: the report has what was found by then."""

        def interrupted(subject):
            raise KeyboardInterrupt

        monkeypatch.setattr("lerobot_pi0_ttnn.cli.verify.command.ask_doctor", lambda lines, options: None)
        monkeypatch.setattr(checks, "check_parts", lambda subject: subject.lines.add(Line("parts", "found", "ok")))
        monkeypatch.setattr(checks, "check_operations", interrupted)
        command = ["verify", str(checkpoint), "--board", board.name, "--report", str(tmp_path / "report")]
        assert main(command) == 1
        report = json.loads((tmp_path / "report" / "verify.json").read_text())
        sections = [line["section"] for line in report["lines"]]
        assert sections[-2:] == ["parts", "operations"], "nothing comes after it"
        assert ADVICE["interrupted"].action in capsys.readouterr().out
        assert board.failure is None

    def test_an_operation_that_ttnn_refuses_is_a_line(self, checkpoint, board, monkeypatch, capsys):
        """And what comes after it is tried; what the board itself fails at ends it."""
        message = (
            "TT_FATAL @ /project/ttnn/cpp/ttnn/operations/matmul/x.cpp:5: a == b\ninfo:\nwidth 3 is odd\nbacktrace:\n"
        )

        def refused(subject):
            raise RuntimeError(message)

        monkeypatch.setattr("lerobot_pi0_ttnn.cli.verify.command.ask_doctor", lambda lines, options: None)
        for section in ("parts", "operations", "behaviour"):
            monkeypatch.setattr(checks, f"check_{section}", refused if section == "parts" else lambda subject: None)
        command = ["verify", str(checkpoint), "--board", board.name]
        command += ["--only", "parts", "operations", "behaviour", "stock"]
        assert main(command) == 1
        printed = capsys.readouterr().out
        assert "fail  parts       ended early: width 3 is odd\n" in printed
        assert ADVICE["refused"].action in printed
        assert "ok    stock " in printed
        message = "TT_THROW @ /project/tt_metal/impl/dispatch/x.cpp:5: TIMEOUT: device timeout"
        monkeypatch.setattr(checks, "check_operations", refused)
        monkeypatch.setattr(checks, "check_parts", lambda subject: None)
        try:
            assert main(command) == 1
        finally:
            board.failure = None
        printed = capsys.readouterr().out
        assert "device timeout" in printed
        assert ADVICE["board"].action in printed
        assert "stock" not in printed.split("fail  board")[0]

    def test_observations_of_a_file(self, checkpoint, policy, tmp_path):
        from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
        from lerobot_pi0_ttnn.cli.verify.observations import read_batches

        file = tmp_path / "one.safetensors"
        tensors = {f"observation.images.{camera}": torch.rand(3, 120, 160) for camera in CAMERAS}
        save_file(tensors | {"observation.state": torch.linspace(-1, 1, 14)}, file, {"task": "push"})
        kind, (batch,) = read_batches(file, policy.config, CheckpointSource(checkpoint), 1)
        assert kind == "of a file"
        observation = policy._read(batch)
        assert observation.rows == 1
        assert observation.lang_masks.any()
        # Normalised by the checkpoint's statistics: mean -1 to 1.
        assert observation.state[:, :14].abs().max() < 1e-6
        save_file(tensors, file)
        with pytest.raises(ValueError, match="no task"):
            read_batches(file, policy.config, CheckpointSource(checkpoint), 1)

    def test_observations_of_a_data_set(self, checkpoint, policy, tmp_path):
        """LeRobot writes it; its first and its last frame are taken, with their task."""
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
        from lerobot_pi0_ttnn.cli.verify.observations import read_batches

        image = {"dtype": "image", "shape": (60, 80, 3), "names": ["height", "width", "channel"]}
        numbers = {"dtype": "float32", "names": None}
        features = {f"observation.images.{camera}": image for camera in CAMERAS}
        features |= {"observation.state": numbers | {"shape": (14,)}, "action": numbers | {"shape": (7,)}}
        data_set = LeRobotDataset.create("made/up", 10, features, root=tmp_path / "set", use_videos=False)
        for shade in (10, 20, 30):
            frame = {f"observation.images.{camera}": np.full((60, 80, 3), shade, np.uint8) for camera in CAMERAS}
            frame |= {"observation.state": np.ones(14, np.float32), "action": np.ones(7, np.float32), "task": "push"}
            data_set.add_frame(frame)
        data_set.save_episode()
        data_set.finalize()
        kind, batches = read_batches(tmp_path / "set", policy.config, CheckpointSource(checkpoint), 2)
        assert kind == "of a data set"
        shades = [float(policy._read(batch).images[0].max()) for batch in batches]
        assert shades == pytest.approx([10 / 127.5 - 1, 30 / 127.5 - 1], abs=1e-3)
        with pytest.raises(ValueError, match=r"no meta/info\.json"):
            read_batches(tmp_path, policy.config, CheckpointSource(checkpoint), 1)


def test_each_kind_of_finding_has_its_own_sentence():
    assert len({advice.meaning for advice in ADVICE.values()}) == len(ADVICE)
    assert len({advice.action for advice in ADVICE.values()}) == len(ADVICE)


class TestReport:
    @pytest.mark.parametrize(
        ("text", "want"),
        [
            ("no such file: /home/jo/pi0/model.safetensors", "no such file: <path>"),
            ("'~/robots/pi0': damaged", "'<path>': damaged"),
            ("read/write at 0000:01:00.0, 8 x 8", "read/write at 0000:01:00.0, 8 x 8"),
            ("TT_FATAL @ /project/tt_metal/impl/x.cpp:5", "TT_FATAL @ <path>:5"),
            (f"run by {getpass.getuser()}x", f"run by {getpass.getuser()}x"),
        ],
    )
    def test_no_path(self, text, want):
        assert without_names(text) == want

    def test_no_user_and_no_host(self, monkeypatch):
        monkeypatch.setattr(getpass, "getuser", lambda: "joanna")
        monkeypatch.setattr(socket, "gethostname", lambda: "labrat")
        assert without_names("joanna@labrat: collaborate") == "<user>@<host>: collaborate"

    def test_an_edited_one_is_found(self):
        lines = Lines(lambda _: None)
        lines.add(Line("parts", "x", "fail", "deviation", numbers={"rel_rmse": float("nan")}))
        about = {
            "board": None,
            "checkpoint": {"type": "pi0", "architecture": "tiny", "fingerprint": "0"},
            "options": {},
        }
        report = make_report(lines, cards=[], about=about)
        check_seal(report)
        assert report["passed"] is False
        with pytest.raises(ValueError, match="edited"):
            check_seal(report | {"passed": True})


def test_saved_tensors_can_be_read(tmp_path):
    from lerobot_pi0_ttnn.cli.verify.command import save_tensors

    save_tensors(tmp_path, "first of parts", {"got": torch.arange(6).view(2, 3).T})
    assert torch.equal(load_file(tmp_path / "first_of_parts.safetensors")["got"], torch.arange(6).view(2, 3).T)
