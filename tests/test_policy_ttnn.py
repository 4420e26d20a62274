"""The policy on its default backend: on an emulated board, with the torch backend of the same checkpoint as the judge."""

import json
import logging
import threading
from pathlib import Path

import pytest
import torch
from lerobot.policies.rtc.configuration_rtc import RTCConfig

pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

import ttnn

import lerobot_pi0_ttnn
from lerobot_pi0_ttnn import PI0TTNNPolicy
from lerobot_pi0_ttnn.configuration_pi0_ttnn import PRECISIONS
from lerobot_pi0_ttnn.tt.precision import PRESETS
from lerobot_pi0_ttnn.ttnn_api.hook import add_layer, remove_layer
from tests.checkpoints import edit_json, save_lerobot_checkpoint
from tests.oracle import make_batch, make_lerobot_policy, make_noise
from tests.processes import forker
from tests.quality import assert_quality


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = save_lerobot_checkpoint(make_lerobot_policy(n_action_steps=5), tmp_path_factory.mktemp("pi0"))
    edit_json(folder / "config.json", architecture="tiny")
    return folder


@pytest.fixture(scope="module")
def want(checkpoint):
    policy = PI0TTNNPolicy.from_pretrained(checkpoint, backend="torch")
    return policy.predict_action_chunk(make_batch(), noise=make_noise())


def predict(policy):
    return policy.predict_action_chunk(make_batch(), noise=make_noise())


@pytest.fixture
def load(board, checkpoint, tmp_path):
    policies = []

    def load(**overrides):
        overrides = {"board": board.name, "weight_cache_dir": tmp_path / "cache", **overrides}
        policies.append(PI0TTNNPolicy.from_pretrained(checkpoint, **overrides))
        return policies[-1]

    yield load
    for policy in policies:
        policy.close()


def test_ttnn_is_the_default(load, want):
    policy = load()
    assert type(policy.model) is lerobot_pi0_ttnn.PI0Model is lerobot_pi0_ttnn.PI0ModelTTNN
    actions = predict(policy)
    assert actions.dtype == torch.float32
    assert actions.shape == (2, 50, 7)
    assert_quality(actions, want, pcc=0.999, rel_rmse=0.05)


def test_precisions_are_those_that_there_are():
    assert set(PRECISIONS) == set(PRESETS)


def test_loaded_in_one_thread_and_run_in_another(load, want):
    policy, actions = load(), []
    thread = threading.Thread(target=lambda: actions.append(predict(policy)))
    thread.start()
    thread.join()
    assert_quality(actions[0], want, pcc=0.999, rel_rmse=0.05)


@pytest.mark.parametrize("guided", [False, True], ids=["free", "guided"])
def test_a_tick_uploads_only_what_is_new(load, board, guided):
    """Pixels of two cameras, state and noise; guided also what is left of the former chunk, and its weights."""
    policy = load(rtc_config=RTCConfig(enabled=True) if guided else None)
    former = {"prev_chunk_left_over": torch.ones(30, 7), "inference_delay": 3} if guided else {}
    suffix = 4 * 64 * 32
    for seed, once in ((1, 4 + 5 + 1), (2, 0)):
        # First also the prompt's tokens, padding and tables; masks, tables and the state's place of all prompts of that size;
        # and the bias of the one step. Then another tick: the state and every pixel differ, the prompt does not.
        batch = make_batch(batch=1, seed=seed) | language_of(make_batch(batch=1, seed=1))
        with board.record() as counts:
            policy.predict_action_chunk(batch, num_steps=1, **former)
        assert counts.uploads.count == once + 3 + 2 * guided
    assert counts.uploads.bytes == 2 * 256 * 608 * 2 + suffix * (2 + 2 * guided)
    assert counts.readbacks.count == 1


def language_of(batch):
    return {key: value for key, value in batch.items() if "language" in key}


def test_two_policies_share_the_board(load):
    first, second = load(), load(precision="accurate")
    assert first.board is second.board
    first.close()
    first.close()
    assert second.board.is_open
    assert predict(second).isfinite().all()
    with pytest.raises(RuntimeError, match="this policy is closed"):
        predict(first)


def test_without_a_card_there_is_an_error_not_a_fallback(checkpoint):
    program = "import sys; from lerobot_pi0_ttnn import PI0TTNNPolicy; PI0TTNNPolicy.from_pretrained(sys.argv[1])"
    child = forker().run(program, checkpoint)
    assert child.end() == 1
    errors = child.errors.read_text()
    assert "--policy.board=emulated:n150" in errors
    assert "--policy.backend=torch" in errors


class TestWeightCache:
    @pytest.fixture
    def cache(self, load, tmp_path):
        """The cache folder that a first start has left."""
        load()
        (folder,) = (tmp_path / "cache").iterdir()
        return folder

    def test_the_second_start_reads_it(self, load, cache, want, monkeypatch):
        read = []
        loader = lerobot_pi0_ttnn.PI0WeightLoader
        original = loader.__getitem__
        monkeypatch.setattr(loader, "__getitem__", lambda self, name: read.append(name) or original(self, name))
        assert_quality(predict(load()), want, pcc=0.999, rel_rmse=0.05)
        assert [name for name in read if "_proj.weight" in name and "layers" in name] == []
        assert not any("embed_tokens" in name for name in read)

    def test_both_starts_give_the_same(self, load):
        assert torch.equal(predict(load()), predict(load()))

    @pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
    def test_a_damaged_file_is_made_again(self, load, cache, caplog, damage):
        expected = predict(load(cache_weights=False))
        file = next(cache.glob("*expert*layers.0*gate_proj.weight.tensorbin"))
        good = file.read_bytes()
        if damage == "flipped":
            file.write_bytes(good[:-500] + bytes(b ^ 0x55 for b in good[-500:]))
        elif damage == "cut":
            file.write_bytes(good[:-500])
        else:
            file.unlink()
        with caplog.at_level(logging.WARNING):
            assert torch.equal(predict(load()), expected)
        assert "gate_proj.weight is converted anew" in caplog.text
        assert file.read_bytes() == good

    def test_without_its_manifest_nothing_counts(self, load, cache, caplog):
        expected = predict(load(cache_weights=False))
        (cache / "manifest.json").write_text(json.dumps({"key": {"checkpoint": "another"}, "files": {}}))
        with caplog.at_level(logging.WARNING):
            assert torch.equal(predict(load()), expected)
        assert "not the manifest of this cache" in caplog.text

    def test_another_checkpoint_or_precision_has_its_own(self, load, cache, checkpoint, tmp_path):
        load(precision="accurate")
        assert len(list((tmp_path / "cache").iterdir())) == 2
        (checkpoint / "model.safetensors").touch()
        load()
        assert len(list((tmp_path / "cache").iterdir())) == 3

    def test_a_full_disk_does_not_stop_the_start(self, load, want, caplog, monkeypatch, tmp_path):
        def full(path, tensor):
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("ttnn.dump_tensor", full)
        with caplog.at_level(logging.WARNING):
            assert_quality(predict(load()), want, pcc=0.999, rel_rmse=0.05)
        assert caplog.text.count("No space left on device") == 1
        assert not list((tmp_path / "cache").rglob("*.tensorbin"))

    def test_it_can_be_switched_off(self, load, tmp_path):
        load(cache_weights=False)
        assert not (tmp_path / "cache").exists()


def test_info_walks_the_board(checkpoint, board, capsys):
    from lerobot_pi0_ttnn.cli import main

    assert main(["info", str(checkpoint), "--board", board.name, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["board"]
    assert report["board"]["grid"] == [8, 8]
    step = report["stages"]["denoising step"]["operations"]
    assert sum(row["count"] for row in step.values()) == 8 * 3 + 6
    assert [stage["uploads"] for stage in report["stages"].values()] == [4, 3, 0, 0, 0, 0]
    assert [stage["readbacks"] for stage in report["stages"].values()] == [0] * 6
    assert report["model"]["parts"]["vision_tower"] == "SigLIPVisionTowerTTNN"
    assert report["model"]["programs_refused"] == {}


def test_info_says_which_programs_the_board_refuses(checkpoint, board, capsys, monkeypatch):
    from lerobot_pi0_ttnn.cli import main
    from lerobot_pi0_ttnn.tt.blocking import Blocks

    too_many_cores = Blocks((20, 20), 1, 1, 1, (1, 1), is_2d=False)
    monkeypatch.setattr("lerobot_pi0_ttnn.tt.program.matmul_blocks", lambda *_, **__: too_many_cores)
    assert main(["info", str(checkpoint), "--board", board.name]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "program refused" in line]
    assert any(
        "linear 1x1x832x128 BFLOAT16 to 256" in line and "must fit within device grid" in line for line in lines
    ), lines


def test_info_says_why_it_does_not_fit(checkpoint, board, capsys, monkeypatch):
    from lerobot_pi0_ttnn.cli import main

    def out_of_memory(*_, **__):
        raise RuntimeError("TT_FATAL: Out of Memory: Not enough space to allocate 1 B DRAM buffer")

    monkeypatch.setattr("lerobot_pi0_ttnn.analysis.report.operations_by_stage", out_of_memory)
    assert main(["info", str(checkpoint), "--board", board.name]) == 1
    assert f"cannot run: {board.name}, balanced: TT_FATAL: Out of Memory" in capsys.readouterr().out


def test_a_card_without_traces_is_warned_of(load, board, caplog, monkeypatch):
    monkeypatch.setattr(board, "kind", "card")
    monkeypatch.setenv("TT_METAL_SLOW_DISPATCH_MODE", "1")
    load(warm_up=False)
    (record,) = [record for record in caplog.records if "calls are eager" in record.message]
    assert record.levelno == logging.WARNING
    assert "TT_METAL_SLOW_DISPATCH_MODE is set" in record.message


@pytest.mark.parametrize("level", [0, 2])
def test_throttle_reaches_every_matmul_with_weights(load, level):
    policy, seen = load(throttle=level), []

    def watch(call, proceed):
        if call.name in ("ttnn.linear", "ttnn.matmul"):
            seen.append(call.kwargs["compute_kernel_config"].throttle_level)
        return proceed(*call.args, **call.kwargs)

    add_layer(watch)
    try:
        predict(policy)
    finally:
        remove_layer(watch)
    assert len(seen) > 10
    assert {str(throttle) for throttle in seen} == {str(list(ttnn.ThrottleLevel.__members__.values())[level])}


def test_the_board_is_opened_as_the_config_says(load, board):
    load(trace_region_mb=board.trace_region_mb)
    with pytest.raises(RuntimeError, match="trace_region_mb=77: this process has board"):
        load(trace_region_mb=77)
