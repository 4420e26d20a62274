"""Batches: read exactly as LeRobot reads them, and rejected with the key and the fix."""

import logging
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lerobot_pi0_ttnn.observation import ObservationReader
from tests.oracle import CAMERAS, make_batch, make_lerobot_policy

KEYS = [f"observation.images.{camera}" for camera in CAMERAS]


@pytest.fixture(scope="module")
def policy():
    return make_lerobot_policy()


@pytest.fixture
def reader():
    return ObservationReader(cameras=KEYS, image_size=224, state_dim=32, vocab_size=512)


@pytest.fixture
def reader_of_pi05():
    return ObservationReader(cameras=KEYS, image_size=224, state_dim=0, vocab_size=512)


@pytest.mark.parametrize(
    "present",
    [CAMERAS, CAMERAS[1:], CAMERAS[::2], CAMERAS[:2], CAMERAS[2:]],
    ids=["all", "no-first", "no-middle", "no-last", "only-last"],
)
@pytest.mark.parametrize(
    "size",
    [(120, 160), (160, 121), (224, 224), (300, 300), (100, 224), (480, 640), (721, 333)],
    ids=lambda size: f"{size[0]}x{size[1]}",
)
def test_inputs_are_lerobots_bit_for_bit(policy, reader, present, size):
    batch = make_batch(cameras=present, size=size)
    images, masks = policy._preprocess_images(batch)
    got = reader(batch)
    assert len(got.images) == len(images)
    assert all(torch.equal(a, b) for a, b in zip(got.images, images, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(got.img_masks, masks, strict=True))
    assert torch.equal(got.state, policy.prepare_state(batch))
    assert torch.equal(got.lang_tokens, batch["observation.language.tokens"])
    assert torch.equal(got.lang_masks, batch["observation.language.attention_mask"])


LAID_OUT = {
    "planes": lambda image: image,
    "channels last": lambda image: image.permute(0, 2, 3, 1).contiguous(),
    "planes, a view of channels last": lambda image: image.contiguous(memory_format=torch.channels_last),
    "mirrored twice": lambda image: image.flip(-1).contiguous().flip(-1),
    "every second row of a larger one": lambda image: image.repeat_interleave(2, dim=2)[:, :, ::2],
}


@pytest.mark.parametrize("layout", LAID_OUT)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(120, 160), (97, 31), (224, 224), (100, 224), (480, 640)], ids=str)
def test_layout_and_dtype_do_not_change_a_bit(policy, reader, size, dtype, layout):
    batch = make_batch(cameras=CAMERAS[:1], size=size)
    key = f"observation.images.{CAMERAS[0]}"
    frame = (batch[key] * 255).to(torch.uint8)
    expected = policy._preprocess_images({key: frame.float() / 255})[0][0]
    given = LAID_OUT[layout](frame if dtype == torch.uint8 else (frame.float() / 255).to(dtype))
    before = given.clone()
    got = reader(batch | {key: given}).images[0]
    assert torch.equal(got, expected)
    assert got.is_contiguous()
    assert torch.equal(given, before)


@pytest.mark.parametrize("image_size", [28, 56], ids=str)
def test_small_models_are_given_the_same_image(image_size):
    """Below a size torch interpolates by another kernel."""
    small = ObservationReader(cameras=KEYS, image_size=image_size, state_dim=32, vocab_size=512)
    lerobot = make_lerobot_policy()
    lerobot.config.image_resolution = (image_size, image_size)
    batch = make_batch(size=(97, 131))
    images, _ = lerobot._preprocess_images(batch)
    assert all(torch.equal(a, b) for a, b in zip(small(batch).images, images, strict=True))


class Storages(TorchDispatchMode):
    """Keeps whatever tensors torch writes, by where they lie in memory, if they are of a size or larger."""

    def __init__(self, numel):
        super().__init__()
        self.numel = numel
        self.written = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.numel() >= self.numel:
            self.written[out.untyped_storage().data_ptr()] = out
        return out


@pytest.mark.parametrize("layout", ["planes", "channels last", "planes, a view of channels last"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_no_memory_of_a_frames_size_is_allocated_twice(reader, layout, dtype):
    batch = make_batch(batch=1, cameras=CAMERAS[:1], size=(480, 640))
    key = f"observation.images.{CAMERAS[0]}"
    batch[key] = LAID_OUT[layout](batch[key] if dtype == torch.float32 else (batch[key] * 255).to(torch.uint8))
    with Storages(batch[key].numel()) as first:
        reader(batch)
    tracemalloc.start()
    try:
        with Storages(batch[key].numel()) as second:
            reader(batch)
        numpys = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert second.written.keys() <= first.written.keys() | {batch[key].untyped_storage().data_ptr()}
    assert numpys < batch[key].numel()


@pytest.mark.parametrize("size", [(480, 640), (100, 224)], ids=["resized", "only-padded"])
def test_a_frame_does_not_overwrite_the_one_before(reader, size):
    """Nor does one that is read in another mode of autograd, or by another thread, or is larger."""
    first, second = make_batch(size=size), make_batch(seed=2, size=size)
    with torch.inference_mode():
        images = reader(first).images
    before = [image.clone() for image in images]
    with ThreadPoolExecutor(1) as other:
        other.submit(reader, second).result()
    reader(second)
    reader(make_batch(seed=3, size=(700, 900)))
    assert all(torch.equal(a, b) for a, b in zip(images, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(reader(first).images, before, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 1000), (5, 4)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_tiny_frames(reader, size):
    """A line of a thousand pixels is less than a pixel high where LeRobot scales it, and fails there."""
    batch = make_batch(batch=1, cameras=CAMERAS[:1], size=size)
    image = reader(batch).images[0]
    assert image.shape == (1, 3, 224, 224)
    assert (image > -1).any()


def test_padding_is_black_and_centred(reader):
    batch = make_batch(cameras=CAMERAS[:1], size=(100, 200))
    image = reader(batch).images[0]
    assert (image[:, :, :56] == -1).all()
    assert (image[:, :, -56:] == -1).all()
    assert (image[:, :, 56:-56] > -1).all()


@pytest.mark.parametrize("size", [(120, 160), (224, 224), (100, 224)], ids=["resized", "as-is", "only-padded"])
def test_the_batch_is_not_changed(reader, size):
    batch = make_batch(size=size)
    before = {key: value.clone() for key, value in batch.items()}
    reader(batch)
    assert all(torch.equal(batch[key], before[key]) for key in before)


def with_nan(value):
    value = value.clone()
    value.view(-1)[-1] = float("nan")
    return value


WRIST = "observation.images.wrist"
STATE = "observation.state"
TOKENS = "observation.language.tokens"
MASK = "observation.language.attention_mask"

BAD = {
    "int64": (
        WRIST,
        lambda v: (v * 255).long(),
        TypeError,
        rf"{WRIST}: expected float32 in \[0, 1\] or uint8, got torch.int64",
    ),
    "0-to-255": (
        WRIST,
        lambda v: v * 255,
        ValueError,
        rf"{WRIST}: expected values in \[0, 1\], got .*divide by 255 once",
    ),
    "-1-to-1": (WRIST, lambda v: v * 2 - 1, ValueError, rf"{WRIST}: expected values in \[0, 1\], got -"),
    "no-pixels": (WRIST, lambda v: v[:, :, :0], ValueError, rf"{WRIST}: expected \(2, 3, H, W\)"),
    "alpha": (WRIST, lambda v: torch.cat([v, v[:, :1]], dim=1), ValueError, "no alpha channel"),
    "nan-image": (WRIST, with_nan, ValueError, f"{WRIST}: holds NaN"),
    "nan-state": (STATE, with_nan, ValueError, rf"{STATE}: holds NaN or infinity in row\(s\) \[1\]"),
    "wide-state": (STATE, lambda v: torch.zeros(2, 33), ValueError, f"{STATE}: expected at most 32 values, got 33"),
    "flat-state": (
        STATE,
        lambda v: v[0],
        ValueError,
        f"{STATE}: expected .batch, n., got .14,.; add the batch dimension",
    ),
    "no-state": (STATE, None, KeyError, f"{STATE} is not in the batch"),
    "no-tokens": (TOKENS, None, KeyError, rf"{TOKENS} is not in the batch.*policy_preprocessor\.json"),
    "no-mask": (MASK, None, KeyError, rf"{MASK} is not in the batch.*policy_preprocessor\.json"),
    "float-tokens": (TOKENS, lambda v: v.float(), TypeError, f"{TOKENS}: expected int64"),
    "other-vocabulary": (TOKENS, lambda v: v + 500, ValueError, f"{TOKENS}: expected ids from 0 to 511"),
    "unlike-mask": (MASK, lambda v: v[:, 1:], ValueError, rf"{MASK} alike, got \(2, 48\) and \(2, 47\)"),
    "unlike-rows": (WRIST, lambda v: v[:1], ValueError, rf"{WRIST}: expected \(2, 3, H, W\)"),
    "one-channel": (WRIST, lambda v: v[:, :1], ValueError, rf"{WRIST}: expected \(2, 3, H, W\)"),
    "a-list": (WRIST, lambda v: v.tolist(), TypeError, f"{WRIST}: expected a tensor, got list"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(reader, case):
    key, change, kind, message = BAD[case]
    batch = make_batch()
    if change is None:
        del batch[key]
    else:
        batch[key] = change(batch[key])
    with pytest.raises(kind, match=message):
        reader(batch)


def test_no_camera_names_the_ones_there_are(reader):
    batch = make_batch(cameras=("top",))
    with pytest.raises(KeyError, match=r"rename_map=.*observation\.images\.top.*observation\.images\.front"):
        reader(batch)


def test_an_unknown_camera_beside_an_absent_one_is_said_once(reader, caplog):
    batch = make_batch(cameras=("wrist", "side", "top"))
    with caplog.at_level(logging.WARNING):
        reader(batch)
        reader(batch)
    assert len(caplog.records) == 1
    assert "observation.images.top" in caplog.text
    assert "observation.images.front" in caplog.text
    assert "--rename_map" in caplog.text


@pytest.mark.parametrize("size", [(120, 160), (224, 224)], ids=["resized", "as-is"])
def test_pixels_out_of_range_are_said_once(reader, caplog, size):
    batch = make_batch(size=size)
    batch[WRIST] = batch[WRIST] * 1.1
    with caplog.at_level(logging.WARNING):
        reader(batch)
        batch[WRIST] = batch[WRIST] * 0.99
        reader(batch)
    assert len(caplog.records) == 1
    assert f"{WRIST}: expected values in [0, 1], got" in caplog.text


def test_pixels_divided_twice_are_said_once(reader, caplog):
    batch = make_batch()
    batch[WRIST] = batch[WRIST] / 255
    with caplog.at_level(logging.WARNING):
        reader(batch)
        reader(batch)
    assert len(caplog.records) == 1
    assert "divided by 255 twice?" in caplog.text
    caplog.clear()
    reader(batch | {WRIST: torch.zeros_like(batch[WRIST])})
    assert not caplog.records


class TestStateInThePrompt:
    """Of pi0.5: the model takes no state, and its prompt is another at each tick."""

    def test_there_is_no_state(self, reader_of_pi05):
        batch = make_batch()
        assert reader_of_pi05(batch).state.shape == (2, 0)
        del batch[STATE]
        assert reader_of_pi05(batch).state.shape == (2, 0)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_what_its_bins_would_hide(self, reader_of_pi05, value):
        batch = make_batch()
        batch[STATE][1, 3] = value
        with pytest.raises(ValueError, match=rf"{STATE}: holds NaN or infinity in row\(s\) \[1\]; check the sensors"):
            reader_of_pi05(batch)

    def test_more_joints_than_pi0_takes(self, reader_of_pi05):
        assert reader_of_pi05(make_batch(state_dim=40)).state.shape == (2, 0)

    @pytest.mark.parametrize("says", [True, False], ids=["with its text", "tokens alone"])
    def test_a_prompt_that_is_cut_is_said_once(self, reader_of_pi05, caplog, says):
        def tick(seed, task="fold it, State: of matter"):
            batch = make_batch(batch=1, lengths=(48,), seed=seed)
            text = f"Task: {task}, State: {seed} {seed + 1};\nAction: "
            return batch | ({"task": [text]} if says else {})

        with caplog.at_level(logging.WARNING):
            for seed in range(5):
                reader_of_pi05(tick(seed))
        (record,) = caplog.records
        assert "was cut at 48 tokens" in record.getMessage()
        assert ("the prompt 'Task: fold it, State: of matter' was cut" in record.getMessage()) == says
        assert len(reader_of_pi05.warnings) == 1
        with caplog.at_level(logging.WARNING):
            reader_of_pi05(tick(0, task="another"))
        assert len(caplog.records) == 1 + says
