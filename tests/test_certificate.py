"""`verify_first`: the first chunk of a session against the float32 twin; and a report that is sealed by its content."""

import json
import logging
import weakref

import pytest
import torch

from lerobot_pi0_ttnn import PI0TTNNPolicy, certificate
from lerobot_pi0_ttnn.certificate import check_seal, chunk_limit, sealed
from lerobot_pi0_ttnn.cli import main
from lerobot_pi0_ttnn.model.config import PI0_BASE, TINY
from tests.checkpoints import edit_json, save_lerobot_checkpoint
from tests.oracle import make_batch, make_lerobot_policy, make_noise


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    policy = make_lerobot_policy(n_action_steps=5, num_inference_steps=1)
    folder = save_lerobot_checkpoint(policy, tmp_path_factory.mktemp("pi0"))
    edit_json(folder / "config.json", architecture="tiny")
    return folder


@pytest.fixture
def load(checkpoint):
    policies = []

    def load(**overrides):
        policies.append(PI0TTNNPolicy.from_pretrained(checkpoint, verify_first=True, warm_up=False, **overrides))
        return policies[-1]

    yield load
    for policy in policies:
        policy.close()


@pytest.fixture
def twins(monkeypatch):
    """Of those that are built to compare with, who is alive."""
    made = []

    class Twin(certificate.PI0ModelTorch):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    monkeypatch.setattr(certificate, "PI0ModelTorch", Twin)
    return made


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("verify_first")]


def test_the_first_chunk_is_compared_once(load, checkpoint, board, twins, caplog):
    policy = load(board=board.name)
    reference = PI0TTNNPolicy.from_pretrained(checkpoint, board=board.name)
    try:
        torch.manual_seed(5)
        chunk = policy.predict_action_chunk(make_batch())
        policy.predict_action_chunk(make_batch())
        torch.manual_seed(5)
        assert torch.equal(reference.predict_action_chunk(make_batch()), chunk), "it draws the noise that it would have"
    finally:
        reference.close()
    (line,) = said(caplog)
    assert f"{board.name} (emulated), balanced: relative RMSE 0.0" in line
    assert "of at most 0.0300" in line
    assert "s to build it" in line
    assert len(twins) == 1
    assert twins[0]() is None, "its weights are in memory for ever"


def test_over_the_limit_nothing_is_handed_out(load, board, monkeypatch):
    policy = load(board=board.name)
    sample = policy.model.sample_actions
    monkeypatch.setattr(policy.model, "sample_actions", lambda *a, **b: sample(*a, **b) * 1.05)
    for _ in range(2):  # trying again does not get round it
        with pytest.raises(
            RuntimeError, match=r"relative RMSE 0\.0[4-6]\d+ of at most 0\.0300.*no action is handed out"
        ):
            policy.select_action(make_batch())
    monkeypatch.undo()
    assert policy.select_action(make_batch()).shape == (2, 7)


def test_guidance_and_steps_are_the_chunks_own(load, board, caplog):
    from lerobot.policies.rtc.configuration_rtc import RTCConfig

    policy = load(board=board.name, precision="accurate", rtc_config=RTCConfig(enabled=True))
    asked = {"noise": make_noise(), "num_steps": 2, "prev_chunk_left_over": torch.ones(30, 7), "inference_delay": 3}
    chunks = [policy.predict_action_chunk(make_batch(), **asked) for _ in range(2)]
    assert len(said(caplog)) == 1
    assert torch.equal(*chunks), "the noise was given, and none is drawn"


def test_float32_has_nothing_to_compare_itself_with(load, twins, caplog):
    with caplog.at_level(logging.WARNING):
        policy = load(backend="torch")
    policy.predict_action_chunk(make_batch())
    assert "nothing to do" in said(caplog)[0]
    assert twins == []


def test_bfloat16_on_the_cpu_is_compared(load, caplog):
    load(backend="torch", dtype="bfloat16").predict_action_chunk(make_batch())
    assert "the CPU, bfloat16: relative RMSE 0.0" in said(caplog)[0]


def test_limits_grow_with_the_root_of_the_depth():
    assert chunk_limit("balanced", TINY) == 0.03
    assert chunk_limit("balanced", TINY, made_up=True) == pytest.approx(0.09)
    assert chunk_limit("accurate", PI0_BASE) == pytest.approx(0.012 * 6**0.5)


class TestSeal:
    def test_content(self):
        report = sealed({"b": [1, 2.5], "a": "ä"})
        # sha256 of {"a":"\u00e4","b":[1,2.5]}, by sha256sum.
        assert report["sha256"] == "5365cd93aa9a9f3e8a4c51dae9ceef2fe2b7508848e669368aad315562103680"
        check_seal(json.loads(json.dumps(report, indent=4)))
        for change in ({"b": [1, 2.6]}, {"c": None}, {"sha256": None}):
            with pytest.raises(ValueError, match="sha256: expected"):
                check_seal(report | change)

    @pytest.fixture
    def report(self, checkpoint):
        from lerobot_pi0_ttnn.checkpoint import PI0WeightLoader

        line = {"section": "parts", "what": "keys, layer 1", "status": "fail", "detail": "relative RMSE 0.3"}
        return {
            "passed": False,
            "made": "2026-11-29 16:00 UTC",
            "board": {"name": "0", "kind": "card", "arch": "blackhole"},
            "checkpoint": {"fingerprint": PI0WeightLoader(checkpoint).fingerprint()},
            "options": {"precision": "fast"},
            "versions": {"ttnn": "0.81.1"},
            "lines": [line],
        }

    def test_info_shows_it(self, checkpoint, report, tmp_path, capsys):
        file = tmp_path / "verify.json"
        file.write_text(json.dumps(sealed(report)))
        main(["info", str(checkpoint), "--certificate", str(file)])
        printed = capsys.readouterr().out
        assert "FAILED on 0 (card, blackhole), 2026-11-29 16:00 UTC, of this checkpoint\n" in printed
        assert "fails: parts, keys, layer 1: relative RMSE 0.3" in printed

    def test_of_another_checkpoint(self, checkpoint, report, tmp_path, capsys):
        file = tmp_path / "verify.json"
        file.write_text(json.dumps(sealed(report | {"passed": True, "lines": [], "checkpoint": {"fingerprint": "0"}})))
        main(["info", str(checkpoint), "--certificate", str(file)])
        assert "passed on 0 (card, blackhole), 2026-11-29 16:00 UTC, of ANOTHER checkpoint" in capsys.readouterr().out

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"passed": true, "sha256": "0"}'])
    def test_what_is_none_is_rejected(self, checkpoint, text, tmp_path, capsys):
        file = tmp_path / "verify.json"
        file.write_text(text)
        assert main(["info", str(checkpoint), "--certificate", str(file)]) == 1
        assert str(file) in capsys.readouterr().err
