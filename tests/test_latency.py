"""The distribution of durations, and what a policy says of its own."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lerobot_pi0_ttnn import PI0TTNNPolicy
from lerobot_pi0_ttnn.latency import WINDOW, Durations, Stopwatch, untimed
from lerobot_pi0_ttnn.latency_report import HOST, TOTAL, device_stage, latency_report
from tests.checkpoints import edit_json, save_lerobot_checkpoint
from tests.oracle import make_batch, make_lerobot_policy


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = save_lerobot_checkpoint(make_lerobot_policy(), tmp_path_factory.mktemp("pi0"))
    edit_json(folder / "config.json", architecture="tiny", backend="torch", num_inference_steps=3)
    return folder


class TestDurations:
    @pytest.mark.parametrize("count", [1, 7, 2 * WINDOW])
    def test_of_the_last(self, count):
        seconds = np.random.default_rng(0).lognormal(0, 0.5, count)
        seconds[0] = 100.0
        durations = Durations()
        for each in seconds:
            durations.add(each)
        summary, last = durations.summary(), np.sort(seconds[-WINDOW:])
        for percent in (50, 95, 99):
            assert getattr(summary, f"p{percent}") == last[int(np.ceil(len(last) * percent / 100)) - 1]
        assert (summary.count, summary.max) == (count, 100.0), "of all that there were"
        assert summary.jitter == pytest.approx(np.std(last))

    def test_it_does_not_grow(self):
        durations = Durations()
        for _ in range(2 * WINDOW):
            durations.add(0.1)
        assert all(len(kept) == WINDOW for kept in vars(durations).values() if hasattr(kept, "__len__"))


class TestStopwatch:
    def test_it_measures(self):
        stopwatch = Stopwatch()
        with stopwatch.stage("sleep"):
            time.sleep(0.02)
        assert 0.02 <= stopwatch.summaries()["sleep"].max < 0.2

    def test_waiting_counts(self):
        stopwatch = Stopwatch()
        with stopwatch.stage("sleep", wait=lambda: time.sleep(0.02)):
            pass
        assert stopwatch.summaries()["sleep"].max >= 0.02

    def test_what_fails_does_not_count(self):
        stopwatch = Stopwatch()
        with pytest.raises(KeyError), stopwatch.stage("fails"):
            raise KeyError
        assert stopwatch.summaries() == {}

    def test_threads_take_turns(self, monkeypatch):
        inside, most = 0, 0

        def add(durations, seconds):
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            time.sleep(0.002)
            inside -= 1

        monkeypatch.setattr(Durations, "add", add)
        stopwatch = Stopwatch()

        def work():
            with stopwatch.stage("one"):
                pass

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == 1


class TestPolicy:
    def test_torch_tells_the_stages_apart(self, checkpoint):
        policy = PI0TTNNPolicy.from_pretrained(checkpoint)
        assert policy.latency()["chunks"] == 0, "warming up does not count"
        policy.reset()
        for _ in range(4):
            policy.predict_action_chunk(make_batch())
        report = policy.latency()
        steps = [f"step {step}" for step in (1, 2, 3)]
        milliseconds = report["milliseconds"]
        assert list(milliseconds) == [TOTAL, HOST, "vision", "prefill", *steps]
        assert {stage["count"] for stage in milliseconds.values()} == {4}
        means = {name: stage["p50"] for name, stage in milliseconds.items()}
        parts = sum(value for name, value in means.items() if name != TOTAL)
        assert parts <= means[TOTAL] * 1.2
        assert parts >= means[TOTAL] * 0.5, "the stages are nearly all there is"
        assert report["model"] == "PI0ModelTorch"
        assert report["precision"] == "float32"
        assert report["steps"] == 3
        assert report["cameras"] == [f"observation.images.{name}" for name in ("front", "wrist", "side")]
        assert report["note"] is None

    def test_a_chunk_from_the_queue_is_not_timed(self, checkpoint):
        policy = PI0TTNNPolicy.from_pretrained(checkpoint)
        for _ in range(10):
            policy.select_action(make_batch())
        assert policy.latency()["chunks"] == 1

    def test_no_milliseconds_without_a_card(self, checkpoint, board):
        policy = PI0TTNNPolicy.from_pretrained(checkpoint, backend="ttnn", board=board.name, cache_weights=False)
        policy.predict_action_chunk(make_batch(batch=1))
        report = policy.latency()
        policy.close()
        assert report["chunks"] == 1
        assert report["milliseconds"] == {}
        assert board.name in report["note"]
        assert report["board"]["emulated"] is (board.kind == "emulated")
        assert report["model"] == "PI0ModelTTNN"


class TestDeviceStage:
    """On a card, which no test here has: by the board's kind alone."""

    def stage(self, kind, **config):
        waited = []
        board = SimpleNamespace(kind=kind, name=kind, wait=lambda: waited.append(kind), describe=dict)
        board.followed = lambda stage: stage
        stopwatch = Stopwatch()
        options = SimpleNamespace(time_stages=False, backend="ttnn", precision="balanced", image_features={})
        options = SimpleNamespace(**vars(options) | {"num_inference_steps": 10} | config)
        with device_stage(options, board, stopwatch)("vision"):
            pass
        with stopwatch.stage(TOTAL):
            pass
        return latency_report(options, torch.nn.Identity(), board, stopwatch)["milliseconds"], waited

    def test_a_card_is_waited_for_if_asked(self):
        milliseconds, waited = self.stage("card", time_stages=True)
        assert set(milliseconds) == {TOTAL, "vision"}
        assert waited == ["card"]

    def test_a_card_runs_ahead_by_default(self):
        milliseconds, waited = self.stage("card")
        assert set(milliseconds) == {TOTAL}
        assert waited == []

    @pytest.mark.parametrize("kind", ["emulated", "simulator"])
    def test_others_are_not_timed(self, kind):
        assert self.stage(kind, time_stages=True) == ({}, [])

    def test_untimed_does_nothing(self):
        with untimed("vision"):
            pass
