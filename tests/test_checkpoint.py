"""The loader: every layout, strict both ways, and a clear word for each way it goes wrong."""

import json
import re
from pathlib import Path

import pytest
import torch

from lerobot_pi0_ttnn import PI0ModelTorch, PI0WeightLoader
from lerobot_pi0_ttnn.checkpoint.layout import recognise
from lerobot_pi0_ttnn.checkpoint.loader import link_or_copy
from lerobot_pi0_ttnn.model.config import PI0_BASE, PI05_BASE, TINY
from lerobot_pi0_ttnn.model.tensors import check_shapes, check_weights, expected_shapes
from tests.checkpoints import LAYOUTS, hub_cache, write, write_sharded
from tests.models import MODELS
from tests.oracle import make_lerobot_policy, state_dict

DATA = Path(__file__).parent / "data"
BASES = {"pi0": (PI0_BASE, 778), "pi05": (PI05_BASE, 813)}
"""By model: its sizes, and how many tensors LeRobot saves."""


@pytest.fixture(scope="module")
def policies():
    return {name: make_lerobot_policy(model=model) for name, model in MODELS.items()}


@pytest.fixture(scope="module")
def policy(policies):
    return policies["pi0"]


@pytest.fixture(scope="module")
def tensors(policy):
    return policy.state_dict()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("writer", [write, write_sharded], ids=["single", "sharded"])
def test_every_layout_gives_the_same_tensors(tmp_path, policies, layout, writer, model):
    expected, tensors = state_dict(policies[model]), policies[model].state_dict()
    if layout != "lerobot-0.6":  # these tie the embedding to lm_head
        embedding = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
        expected = expected | {embedding: tensors["model.paligemma_with_expert.paligemma.lm_head.weight"]}
    loader = PI0WeightLoader(writer(tmp_path / "ckpt", LAYOUTS[layout](tensors)))
    check_weights(MODELS[model], loader)
    assert loader.keys() == expected.keys()
    assert all(torch.equal(loader[name], tensor) for name, tensor in expected.items())
    assert loader.shapes() == {name: tuple(tensor.shape) for name, tensor in expected.items()}


def real_tensors(model: str) -> dict[str, tuple[int, ...]]:
    """The names and shapes that LeRobot 0.6.1 gives to a full-size pi0 or pi0.5, printed by LeRobot itself."""
    shapes, printed = {}, (DATA / f"{model}_base_tensors.txt").read_text()
    for count, name, shape in re.findall(r"^ *(\d+) x (\S+)  \[([\d, ]+)\]", printed, re.MULTILINE):
        for layer in range(int(count)):
            shapes[name.replace("{i}", str(layer))] = tuple(int(size) for size in shape.split(","))
    return shapes


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_name_of_the_real_checkpoint_is_consumed_once(layout, model):
    base, count = BASES[model]
    meta = {name: torch.empty(shape, device="meta") for name, shape in real_tensors(model).items()}
    assert len(meta) == count
    saved = LAYOUTS[layout](meta)
    found = recognise(saved, "base")
    assert found.model == {"pi0": "pi0", "pi05": "pi0.5"}[model]
    assert sorted([*found.names.values(), *found.ignored]) == sorted(saved)
    check_shapes(base, {ours: tuple(saved[name].shape) for ours, name in found.names.items()})


def test_pi05_under_the_names_that_lerobot_changes():
    """Its `PI05Policy._fix_pytorch_state_dict_keys`: pi0's time MLP is pi0.5's, pi0's state projection is left out."""
    meta = {name: torch.empty(shape, device="meta") for name, shape in real_tensors("pi05").items()}
    saved = {name.replace("time_mlp", "action_time_mlp"): tensor for name, tensor in meta.items()}
    saved |= {f"model.state_proj.{name}": torch.empty(1, device="meta") for name in ("weight", "bias")}
    found = recognise(saved, "base")
    assert found.traits == ["pi0.5", "prefix `model.`", "action_time_mlp_*"]
    assert sorted([*found.names.values(), *found.ignored]) == sorted(saved)
    assert {name for name in found.ignored if "lm_head" not in name} == {
        "model.state_proj.weight",
        "model.state_proj.bias",
    }
    check_shapes(PI05_BASE, {ours: tuple(saved[name].shape) for ours, name in found.names.items()})


@pytest.mark.parametrize("model", MODELS)
def test_recognising_is_idempotent(model):
    names = list(expected_shapes(MODELS[model]))
    assert recognise(names, "ours").names == {name: name for name in names}


def test_a_file_of_its_own_is_accepted(tmp_path, tensors):
    folder = write(tmp_path / "ckpt", tensors)
    check_weights(TINY, PI0WeightLoader(folder / "model.safetensors"))


def test_subfolder(tmp_path, tensors):
    write(tmp_path / "checkpoints" / "010000", tensors)
    check_weights(TINY, PI0WeightLoader(tmp_path, subfolder="checkpoints/010000"))


def test_tensors_are_mapped_not_copied(tmp_path, run_python):
    """Reading one row of a tensor of 512 MB must not bring all of it into memory."""
    write(tmp_path, {"model.paligemma_with_expert.x": torch.zeros(256, 512 * 1024)})
    program = (
        "import resource, sys; from lerobot_pi0_ttnn import PI0WeightLoader\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "loader = PI0WeightLoader(sys.argv[1]); before = peak()\n"
        "loader['paligemma_with_expert.x'][3].sum(); print(peak() - before)"
    )
    assert int(run_python(program, [tmp_path])) < 64 * 1024  # KiB


def test_all_that_is_wrong_is_in_one_error(tmp_path, tensors):
    broken = dict(tensors)
    del broken["model.state_proj.weight"], broken["model.action_in_proj.bias"]
    broken["model.action_extra.weight"] = torch.zeros(2, 3)
    broken["model.action_out_proj.weight"] = torch.zeros(5, 7)
    loader = PI0WeightLoader(write(tmp_path, broken))
    with pytest.raises(ValueError, match="nothing is loaded") as error:
        PI0ModelTorch(TINY, loader)
    lines = str(error.value).splitlines()
    assert str(tmp_path) in lines[0]
    assert lines[1:5] == [
        "  missing action_in_proj.bias: expected (64,)",
        "  missing state_proj.weight: expected (64, 32)",
        "  unexpected action_extra.weight: (2, 3)",
        "  wrong shape action_out_proj.weight: expected (32, 64), got (5, 7)",
    ]


def test_two_tensors_for_one_name(tmp_path, tensors):
    twice = tensors | {"state_proj.weight": torch.zeros(64, 32)}
    with pytest.raises(ValueError, match=r"are both state_proj\.weight"):
        PI0WeightLoader(write(tmp_path, twice))


def damaged(tmp_path: Path, tensors, how: str) -> Path:
    folder = write(tmp_path / "ckpt", tensors)
    file = folder / "model.safetensors"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    elif how == "not-safetensors":
        torch.save({"a": torch.zeros(3)}, file)
    elif how == "lfs-pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif how == "empty-file":
        file.write_bytes(b"")
    elif how == "empty-folder":
        file.unlink()
    elif how == "pytorch-bin":
        file.rename(folder / "pytorch_model.bin")
    elif how == "distributed":
        (folder / "pytorch_model_fsdp_0").mkdir()
        file.rename(folder / "pytorch_model_fsdp_0" / "__0_0.distcp")
    elif how == "adapter":
        file.unlink()
        (folder / "adapter_config.json").write_text("{}")
    elif how == "missing-shard":
        file.unlink()
        write_sharded(folder, tensors)
        next(folder.glob("*-00002-*")).unlink()
    elif how == "bad-index":
        file.rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weights": 1}))
    return folder


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("truncated", ValueError, "cut short at .* delete it and fetch it again"),
        ("not-safetensors", ValueError, "not a safetensors file .* save the model as safetensors"),
        ("lfs-pointer", ValueError, "a git-lfs pointer.*git lfs pull"),
        ("empty-file", ValueError, "not a safetensors file"),
        ("empty-folder", FileNotFoundError, r"expected model\.safetensors or .*found neither\. Give the folder"),
        ("pytorch-bin", FileNotFoundError, r"PyTorch \.bin files"),
        ("distributed", FileNotFoundError, "run that release's lerobot-convert-dcp on it first"),
        ("adapter", FileNotFoundError, "an adapter, not a whole model.*convert"),
        ("missing-shard", FileNotFoundError, "model-00002-of-.* absent; fetch the whole folder"),
        ("bad-index", ValueError, "weight_map"),
    ],
)
def test_damaged_checkpoints(tmp_path, tensors, how, kind, message):
    with pytest.raises(kind, match=message) as error:
        PI0WeightLoader(damaged(tmp_path, tensors, how))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.vlm_with_expert.vlm.model.x", "SmolVLA checkpoint"),
        ("model.encoder.weight", r"expected the tensors of pi0.*such as model\.encoder\.weight"),
    ],
)
def test_other_models_are_named(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        PI0WeightLoader(write(tmp_path, {name: torch.zeros(2, 2)}))


class TestHub:
    """The Hub's cache stands in for the Hub: the real loading code, offline."""

    def test_from_the_cache(self, tmp_path, policy, tensors):
        cache = hub_cache(tmp_path / "hub", "lerobot/pi0_base", write(tmp_path / "a", tensors))
        loader = PI0WeightLoader("lerobot/pi0_base", cache_dir=cache, local_files_only=True)
        assert torch.equal(loader["state_proj.weight"], state_dict(policy)["state_proj.weight"])

    def test_sharded_in_a_subfolder(self, tmp_path, tensors):
        write_sharded(tmp_path / "a" / "step_7", tensors)
        cache = hub_cache(tmp_path / "hub", "me/run", tmp_path / "a")
        check_weights(TINY, PI0WeightLoader("me/run", cache_dir=cache, local_files_only=True, subfolder="step_7"))

    def test_the_revision_is_the_one_asked_for(self, tmp_path, tensors):
        other = tensors | {"model.state_proj.bias": torch.full((64,), 7.0)}
        cache = hub_cache(tmp_path / "hub", "me/run", write(tmp_path / "a", tensors))
        hub_cache(cache, "me/run", write(tmp_path / "b", other), revision="v2")
        loader = PI0WeightLoader("me/run", revision="v2", cache_dir=cache, local_files_only=True)
        assert torch.equal(loader["state_proj.bias"], torch.full((64,), 7.0))

    def test_not_in_the_cache(self, tmp_path):
        with pytest.raises(ConnectionError, match=r"no such folder here.*Hub cannot be reached; give a folder"):
            PI0WeightLoader("me/absent", cache_dir=tmp_path, local_files_only=True)

    def test_not_an_id(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"neither a folder that exists nor a Hub id"):
            PI0WeightLoader("a/b/c/d", cache_dir=tmp_path)

    @pytest.mark.parametrize("path", ["./absent", "/absent", "~/absent-checkpoint"])
    def test_a_path_is_not_looked_up_on_the_hub(self, path):
        with pytest.raises(FileNotFoundError, match="there is no such folder"):
            PI0WeightLoader(path)

    @pytest.mark.parametrize(
        ("error", "status", "kind", "message"),
        [
            ("RepositoryNotFoundError", 404, FileNotFoundError, "no such repository on the Hub"),
            ("GatedRepoError", 403, PermissionError, "accept this repository's terms"),
            ("RevisionNotFoundError", 404, FileNotFoundError, "no revision 'v9'"),
            ("HfHubHTTPError", 503, ConnectionError, "try again"),
        ],
    )
    def test_what_the_hub_answers(self, monkeypatch, error, status, kind, message):
        import httpx
        from huggingface_hub import errors

        def answer(**_):
            response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co"))
            raise getattr(errors, error)("said the Hub", response=response)

        monkeypatch.setattr("lerobot_pi0_ttnn.checkpoint.files.hf_hub_download", answer)
        with pytest.raises(kind, match=message):
            PI0WeightLoader("me/run", revision="v9")


class TestLinkOrCopy:
    def test_links(self, tmp_path):
        (tmp_path / "a").write_text("weights")
        link_or_copy(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b").samefile(tmp_path / "a")

    def test_copies_where_it_cannot_link(self, tmp_path, monkeypatch):
        def refuse(*_):
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr("os.link", refuse)
        (tmp_path / "a").write_bytes(b"weights" * 1000)
        (tmp_path / "b").write_text("old")
        link_or_copy(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == b"weights" * 1000
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]

    def test_onto_itself_changes_nothing(self, tmp_path):
        (tmp_path / "a").write_text("weights")
        link_or_copy(tmp_path / "a", tmp_path / "a")
        assert (tmp_path / "a").read_text() == "weights"
