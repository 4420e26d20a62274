"""The policy against LeRobot's: same checkpoint, same batch, same noise, same actions; and LeRobot's contract around it."""

import inspect
import logging
import shutil
import threading
from types import SimpleNamespace

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_policy, make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy
from safetensors import safe_open

from lerobot_pi0_ttnn import PI0TTNNPolicy, PI05TTNNPolicy, load_policy
from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.config_loading import load_config
from lerobot_pi0_ttnn.recording import read_recording
from tests.checkpoints import edit_json, hub_cache, save_lerobot_checkpoint
from tests.models import MODELS
from tests.oracle import make_batch, make_lerobot_policy, make_noise

TINY_TORCH = {"architecture": "tiny", "backend": "torch"}


CLASSES = {"pi0": PI0TTNNPolicy, "pi05": PI05TTNNPolicy}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return request.param


@pytest.fixture(scope="module")
def policy_class(model):
    return CLASSES[model]


@pytest.fixture(scope="module")
def lerobot_policy(model):
    return make_lerobot_policy(n_action_steps=5, model=MODELS[model])


@pytest.fixture(scope="module")
def checkpoint(lerobot_policy, tmp_path_factory):
    folder = save_lerobot_checkpoint(lerobot_policy, tmp_path_factory.mktemp("pi0"))
    edit_json(folder / "config.json", **TINY_TORCH)
    return folder


@pytest.fixture
def policy(checkpoint, policy_class):
    return policy_class.from_pretrained(checkpoint)


def test_it_is_lerobots_policy(policy, lerobot_policy):
    batch, noise = make_batch(), make_noise()
    got = policy.predict_action_chunk(batch, noise=noise)
    want = lerobot_policy.predict_action_chunk(batch, noise=noise)
    assert got.dtype == torch.float32
    assert got.device.type == "cpu"
    assert not got.requires_grad
    assert got.shape == (2, 50, 7)
    assert (got - want).abs().max() <= 1e-5


def test_num_steps(policy, lerobot_policy):
    batch, noise = make_batch(), make_noise()
    got = policy.predict_action_chunk(batch, noise=noise, num_steps=3)
    want = lerobot_policy.predict_action_chunk(batch, noise=noise, num_steps=3)
    assert (got - want).abs().max() <= 1e-5
    assert (got - policy.predict_action_chunk(batch, noise=noise)).abs().max() > 1e-3


def test_the_same_seed_gives_lerobots_noise(policy, lerobot_policy):
    torch.manual_seed(7)
    got = policy.predict_action_chunk(make_batch())
    torch.manual_seed(7)
    want = lerobot_policy.predict_action_chunk(make_batch())
    assert (got - want).abs().max() <= 1e-5


def test_noise_is_fresh_unless_seeded(policy):
    batch = make_batch()
    assert not torch.equal(policy.predict_action_chunk(batch), policy.predict_action_chunk(batch))
    seeded = [policy.predict_action_chunk(batch, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*seeded)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_queue(policy, lerobot_policy, batch_size):
    """Actions come one by one; a new chunk is asked for after `n_action_steps`, or after `reset`."""
    batches = [make_batch(batch=batch_size, seed=seed) for seed in range(2)]
    noises = [make_noise(batch_size, seed=seed) for seed in range(3)]
    first, second = (lerobot_policy.predict_action_chunk(b, noise=n) for b, n in zip(batches, noises[:2], strict=True))
    policy.reset()
    for tick in range(5):
        action = policy.select_action(batches[0 if tick == 0 else 1], noise=noises[0])
        assert action.shape == (batch_size, 7)
        assert (action - first[:, tick]).abs().max() <= 1e-5
    assert (policy.select_action(batches[1], noise=noises[1]) - second[:, 0]).abs().max() <= 1e-5
    policy.reset()
    assert (policy.select_action(batches[0], noise=noises[0]) - first[:, 0]).abs().max() <= 1e-5


def test_dropped_actions(policy, lerobot_policy):
    """LeRobot's main after 0.6.1 calls it where the prompt changes; it waits for whoever takes an action meanwhile."""
    batches = [make_batch(seed=seed) for seed in range(2)]
    policy.reset()
    policy.select_action(batches[0], noise=make_noise())
    dropping = threading.Thread(target=policy.drop_queued_actions)
    with policy._queue_lock:
        dropping.start()
        dropping.join(0.2)
        assert dropping.is_alive()
        assert len(policy._action_queue) == 4
    dropping.join()
    want = lerobot_policy.predict_action_chunk(batches[1], noise=make_noise())[:, 0]
    assert (policy.select_action(batches[1], noise=make_noise()) - want).abs().max() <= 1e-5


def test_rows_of_a_batch_do_not_meet(policy):
    batch, noise = make_batch(batch=3, lengths=(5, 20, 48)), make_noise(3)
    together = policy.predict_action_chunk(batch, noise=noise)
    for row in range(3):
        alone = policy.predict_action_chunk({k: v[row : row + 1] for k, v in batch.items()}, noise=noise[row : row + 1])
        assert (together[row : row + 1] - alone).abs().max() <= 1e-5


def test_batches_of_inference_mode(policy):
    with torch.inference_mode():
        batch = make_batch()
        actions = policy.predict_action_chunk(batch, noise=make_noise())
    assert torch.equal(actions, policy.predict_action_chunk(make_batch(), noise=make_noise()))


def test_bfloat16(checkpoint, policy):
    got = load_policy(checkpoint, dtype="bfloat16").predict_action_chunk(make_batch(), noise=make_noise())
    want = policy.predict_action_chunk(make_batch(), noise=make_noise())
    assert torch.corrcoef(torch.stack([got.flatten(), want.flatten()]))[0, 1] > 0.999
    assert not torch.equal(got, want)


@pytest.mark.parametrize("shape", [(1, 50, 32), (2, 50, 7), (2, 49, 32)])
def test_noise_of_the_wrong_shape(policy, shape):
    with pytest.raises(ValueError, match=r"noise: expected \(2, 50, 32\) float32"):
        policy.predict_action_chunk(make_batch(), noise=torch.zeros(shape))


def test_bad_input_costs_no_model_time(policy, monkeypatch):
    monkeypatch.setattr(policy.model, "sample_actions", lambda *_, **__: pytest.fail("the model was run"))
    batch = make_batch()
    batch["observation.state"][0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"observation\.state"):
        policy.select_action(batch)


class TestNames:
    """What LeRobot's own tests and engine reach for by name; `tests/lerobot_suite` runs those tests themselves."""

    @pytest.mark.parametrize("size", [(120, 160), (224, 224)])
    def test_inputs_without_a_policy(self, checkpoint, lerobot_policy, policy_class, size):
        """LeRobot's `test_pi0_processor.py` takes the two methods off the class, for an object with only a config."""
        bare = SimpleNamespace(config=policy_class.from_pretrained(checkpoint).config)
        batch = make_batch(size=size)
        images, masks = policy_class._preprocess_images(bare, batch)
        want_images, want_masks = lerobot_policy._preprocess_images(batch)
        for got, want in ((images, want_images), (masks, want_masks)):
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        if hasattr(lerobot_policy, "prepare_state"):
            assert torch.equal(policy_class.prepare_state(bare, batch), lerobot_policy.prepare_state(batch))

    def test_the_models_noise_is_lerobots(self, policy, lerobot_policy):
        torch.manual_seed(5)
        got = policy.model.sample_noise((2, 50, 32), "cpu")
        torch.manual_seed(5)
        assert torch.equal(got, lerobot_policy.model.sample_noise((2, 50, 32), "cpu"))

    def test_noise_is_the_models(self, policy, monkeypatch):
        """Whoever replaces `sample_noise`, as LeRobot's parity tests do, decides on the noise."""
        monkeypatch.setattr(policy.model, "sample_noise", lambda shape, *_, **__: make_noise(shape[0]))
        want = policy.predict_action_chunk(make_batch(), noise=make_noise())
        assert torch.equal(policy.predict_action_chunk(make_batch()), want)

    def test_dropped_actions_are_predicted_anew(self, policy):
        """LeRobot's `drop_queued_actions` clears the queue under this name, between two instructions."""
        noises = [make_noise(seed=seed) for seed in range(2)]
        policy.select_action(make_batch(), noise=noises[0])
        policy._action_queue.clear()
        got = policy.select_action(make_batch(), noise=noises[1])
        assert torch.equal(got, policy.predict_action_chunk(make_batch(), noise=noises[1])[:, 0])


class TestLoading:
    def test_never_untrained(self, policy_class, model):
        with pytest.raises(ValueError, match=rf"trained weights only.*--policy\.path.* --policy\.type={model}\."):
            policy_class(policy_class.config_class(**TINY_TORCH))

    def test_whichever_it_is_of(self, checkpoint, policy_class, tmp_path):
        cache = hub_cache(tmp_path, "me/policy", checkpoint, revision="v1")
        hub = {"revision": "v1", "cache_dir": cache, "local_files_only": True}
        assert type(load_policy("me/policy", **hub, warm_up=False)) is policy_class
        assert type(load_policy(checkpoint, config=load_config(CheckpointSource(checkpoint)))) is policy_class

    def test_fields_of_the_config_as_arguments(self, checkpoint, policy_class):
        policy = load_policy(checkpoint, n_action_steps=2, strict=True, dataset_stats=None)
        assert policy.config.n_action_steps == 2
        name = policy_class.config_class.__name__
        with pytest.raises(TypeError, match=f"neither an argument nor a field of {name}: bakend"):
            load_policy(checkpoint, bakend="torch")

    def test_incomplete_weights(self, policy_class):
        weights = {"action_in_proj.weight": torch.zeros(64, 32)}
        with pytest.raises(ValueError, match=r"missing action_in_proj\.bias"):
            policy_class(policy_class.config_class(**TINY_TORCH), weights)

    def test_a_config_of_another_policy(self, checkpoint, lerobot_policy, policy_class):
        theirs, ours = type(lerobot_policy.config).__name__, policy_class.config_class.__name__
        with pytest.raises(TypeError, match=f"expected {ours}, got {theirs}"):
            policy_class.from_pretrained(checkpoint, config=lerobot_policy.config)
        with pytest.raises(TypeError, match=f"expected one of pi0_ttnn or pi05_ttnn, got {theirs}"):
            load_policy(checkpoint, config=lerobot_policy.config)

    def test_from_the_hubs_cache_at_a_revision(self, checkpoint, tmp_path, lerobot_policy):
        cache = hub_cache(tmp_path, "me/pi0", checkpoint, revision="v1")
        policy = load_policy("me/pi0", revision="v1", cache_dir=cache, local_files_only=True)
        want = lerobot_policy.predict_action_chunk(make_batch(), noise=make_noise())
        assert (policy.predict_action_chunk(make_batch(), noise=make_noise()) - want).abs().max() <= 1e-5

    def test_missing_statistics_are_said_before_loading(self, checkpoint, tmp_path, caplog, model):
        folder = shutil.copytree(checkpoint, tmp_path / "copy")
        for pipeline in folder.glob("policy_*processor.json"):
            pipeline.write_text(pipeline.read_text().replace('"state_file"', '"no_state_file"'))
        (folder / "model.safetensors").unlink()
        with caplog.at_level(logging.WARNING), pytest.raises(FileNotFoundError):
            load_policy(folder)
        by = {"pi0": "mean and std", "pi05": "q01 and q99"}[model]
        assert f"observation.state, action: normalised by {by} in training" in caplog.text

    def test_an_unreachable_tokenizer_is_said_before_loading(self, checkpoint, tmp_path, caplog, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        folder = shutil.copytree(checkpoint, tmp_path / "copy")
        preprocessor = folder / "policy_preprocessor.json"
        preprocessor.write_text(
            preprocessor.read_text().replace(str(checkpoint / "tokenizer"), "google/paligemma-3b-pt-224")
        )
        (folder / "model.safetensors").unlink()
        with caplog.at_level(logging.WARNING), pytest.raises(FileNotFoundError):
            load_policy(folder)
        assert "tokenizer: google/paligemma-3b-pt-224: it is not, or not whole, in the Hub's cache" in caplog.text
        assert "convert CKPT DST --tokenizer" in caplog.text

    def test_a_cache_without_the_processors_is_a_warning(self, checkpoint, lerobot_policy, tmp_path, caplog):
        """As `hf download REPO config.json model.safetensors` leaves it: to load the policy, no more is needed."""
        part = tmp_path / "part"
        part.mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copy(checkpoint / name, part)
        cache = hub_cache(tmp_path / "hub", "me/pi0", part)
        with caplog.at_level(logging.WARNING):
            policy = load_policy("me/pi0", cache_dir=cache, local_files_only=True)
        assert "processors: they could not be looked for. me/pi0: " in caplog.text
        assert "policy_preprocessor.json is not in the Hub's cache" in caplog.text
        want = lerobot_policy.predict_action_chunk(make_batch(), noise=make_noise())
        assert (policy.predict_action_chunk(make_batch(), noise=make_noise()) - want).abs().max() <= 1e-5


class TestSaving:
    def test_round_trip_links_the_weights(self, policy, checkpoint, tmp_path):
        policy.save_pretrained(tmp_path / "again")
        assert (tmp_path / "again" / "model.safetensors").samefile(checkpoint / "model.safetensors")
        again = load_policy(tmp_path / "again")
        assert again.config == policy.config
        policy._save_pretrained(tmp_path / "again")  # as LeRobot's main after 0.6.1 calls it
        noise = make_noise()
        assert torch.equal(
            again.predict_action_chunk(make_batch(), noise=noise),
            policy.predict_action_chunk(make_batch(), noise=noise),
        )

    def test_onto_itself_loses_nothing(self, policy, checkpoint):
        before = (checkpoint / "model.safetensors").read_bytes()
        policy.save_pretrained(checkpoint)
        assert (checkpoint / "model.safetensors").read_bytes() == before

    def test_weights_from_a_dict(self, policy, tmp_path):
        made = type(policy)(policy.config, dict(policy.weights))
        made.save_pretrained(tmp_path)
        with safe_open(tmp_path / "model.safetensors", "pt") as saved:
            assert set(saved.keys()) == set(policy.weights)
        assert torch.equal(
            load_policy(tmp_path).predict_action_chunk(make_batch(), noise=make_noise()),
            policy.predict_action_chunk(make_batch(), noise=make_noise()),
        )

    def test_a_gathered_state_dict_is_refused(self, policy, tmp_path):
        with pytest.raises(ValueError, match="state_dict"):
            policy.save_pretrained(tmp_path, state_dict={"a": torch.zeros(1)})


class TestContract:
    """What LeRobot asks of a policy; the numbers are lerobot's own tests'."""

    def test_dispatch_by_name(self, policy_class):
        assert get_policy_class(policy_class.name) is policy_class
        annotation = inspect.signature(policy_class.__init__).parameters["config"].annotation
        assert issubclass(policy_class.config_class, annotation)

    def test_no_parameters_and_any_device(self, policy):
        assert isinstance(policy, PreTrainedPolicy)
        assert list(policy.parameters()) == []
        assert policy.to("cuda") is policy
        assert policy.to("ttnn") is policy
        assert policy.train().eval() is policy

    def test_training_is_refused_with_the_way_to_do_it(self, policy, model):
        for call in (lambda: policy.forward({}), policy.get_optim_params):
            with pytest.raises(NotImplementedError, match=rf"train with --policy\.type={model} and"):
                call()

    def test_made_by_lerobots_factory_with_its_processors(self, checkpoint, lerobot_policy, policy_class):
        from lerobot.envs.configs import AlohaEnv

        edit_json(checkpoint / "config.json", type=policy_class.name)
        cfg = PreTrainedConfig.from_pretrained(checkpoint)
        cfg.pretrained_path = checkpoint
        environment = AlohaEnv()
        environment.features["action"] = PolicyFeature(FeatureType.ACTION, (7,))
        policy = make_policy(
            cfg, env_cfg=environment, rename_map={"observation.images.top": "observation.images.front"}
        )
        assert type(policy) is policy_class
        pre, post = make_pre_post_processors(cfg, str(checkpoint))
        raw = {
            "observation.images.front": torch.rand(1, 3, 120, 160),
            "observation.state": torch.randn(1, 14),
            "task": ["stack the cubes"],
        }
        batch, noise = pre(raw), make_noise(1)
        want = lerobot_policy.predict_action_chunk(batch, noise=noise)
        tokens = batch["observation.language.tokens"][0]
        assert tokens[0] == 2
        # pi0.5's prompt goes on after its line break, with `Action: `, a byte a token.
        length = int(batch["observation.language.attention_mask"].sum())
        assert tokens[16 if policy_class is PI0TTNNPolicy else length - len("Action: ") - 1] == 108
        got = policy.predict_action_chunk(batch, noise=noise)
        assert (got - want).abs().max() <= 1e-5
        mean, std = torch.linspace(-2, 2, 7), torch.linspace(1, 3, 7)
        assert torch.allclose(post(want[:, 0]), want[:, 0] * (std + 1e-8) + mean, atol=1e-5)


def test_recording(checkpoint, tmp_path):
    recorded = load_policy(checkpoint, recording_path=tmp_path / "run.jsonl")
    actions = []
    for _ in range(2):
        recorded.reset()
        actions += [recorded.select_action(make_batch()) for _ in range(6)]
    run = read_recording(tmp_path / "run.jsonl")
    assert [(episode, tick) for episode, tick, _ in run.actions] == [(e, t) for e in (0, 1) for t in range(6)]
    assert [(episode, tick) for episode, tick, _ in run.chunks] == [(0, 0), (0, 5), (1, 0), (1, 5)]
    assert all(torch.allclose(got, want, atol=1e-6) for (_, _, got), want in zip(run.actions, actions, strict=True))
    assert torch.allclose(run.chunks[1][2][:, 0], actions[5], atol=1e-6)
