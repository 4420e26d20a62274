"""Which of a checkpoint's features a key of openpi's clients is, and what is said where it is none."""

import math
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.utils import prepare_observation_for_inference
from lerobot.processor.env_processor import LiberoProcessorStep
from lerobot.utils.constants import OBS_IMAGES

from lerobot_pi0_ttnn.checkpoint.processors import RENAME, SavedPipeline, SavedProcessors
from lerobot_pi0_ttnn.cli.serve.observation import prepare
from lerobot_pi0_ttnn.cli.serve.openpi.embodiments import ALOHA, DROID, LIBERO, ROBOARENA, own_keys
from lerobot_pi0_ttnn.cli.serve.openpi.layout import match_layout
from lerobot_pi0_ttnn.configuration_pi0_ttnn import PI0TTNNConfig
from tests.fake_libero import Scene

OPENPI = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


def checkpoint(*cameras: str, state: int = 8, action: int = 7, renamed: dict[str, str] | None = None, **fields):
    """A config and its processors, without weights."""
    features = {f"{OBS_IMAGES}.{name}": PolicyFeature(FeatureType.VISUAL, (3, 224, 224)) for name in cameras}
    features["observation.state"] = PolicyFeature(FeatureType.STATE, (state,))
    config = PI0TTNNConfig(
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (action,))},
        architecture="tiny",
        **fields,
    )
    renamed = {f"{OBS_IMAGES}.{theirs}": f"{OBS_IMAGES}.{ours}" for theirs, ours in (renamed or {}).items()}
    stats = {"observation.state": {"mean": torch.zeros(state)}, "action": {"mean": torch.zeros(action)}}
    pipeline = SavedPipeline(Path("saved.json"), {RENAME: {"rename_map": renamed}}, stats)
    return config, SavedProcessors(pipeline, pipeline)


def ours(*cameras: str) -> list[str]:
    return [f"{OBS_IMAGES}.{name}" for name in cameras]


def layout(embodiment, config, processors, **options):
    return match_layout(embodiment, config, processors, "CKPT", **options)


def features(matched) -> dict[str, str]:
    return {key: feature.removeprefix(f"{OBS_IMAGES}.") for key, feature in matched.features.items()}


IMAGE, WRIST = "observation/image", "observation/wrist_image"
LEFT, LEFT_WRIST = "observation/exterior_image_1_left", "observation/wrist_image_left"


@pytest.mark.parametrize(
    ("embodiment", "made", "expected"),
    [
        (LIBERO, checkpoint("image", "image2"), {IMAGE: "image", WRIST: "image2"}),
        (LIBERO, checkpoint("image", "wrist_image"), {IMAGE: "image", WRIST: "wrist_image"}),
        (LIBERO, checkpoint(*OPENPI), {IMAGE: OPENPI[0], WRIST: OPENPI[1]}),
        (
            LIBERO,
            checkpoint(*OPENPI, renamed={"image": OPENPI[1], "image2": OPENPI[0]}),
            {IMAGE: OPENPI[1], WRIST: OPENPI[0]},
        ),
        (DROID, checkpoint("exterior_1_left", "wrist_left", action=8), {LEFT: "exterior_1_left", LEFT_WRIST: "wrist_left"}),
        (
            ROBOARENA,
            checkpoint("exterior_1_left", "exterior_2_left", "wrist_left", action=8),
            {
                "observation/exterior_image_0_left": "exterior_1_left",
                LEFT: "exterior_2_left",
                LEFT_WRIST: "wrist_left",
            },
        ),
        (ALOHA, checkpoint("top", state=14, action=14), {"images/cam_high": "top"}),
        (
            ALOHA,
            checkpoint("cam_high", "cam_left_wrist", "cam_right_wrist", state=14, action=14),
            {f"images/{name}": name for name in ("cam_high", "cam_left_wrist", "cam_right_wrist")},
        ),
        (
            LIBERO,
            checkpoint("a", "b", camera_aliases=dict(zip(ours("image", "image2"), ours("b", "a"), strict=True))),
            {IMAGE: "b", WRIST: "a"},
        ),
    ],
)  # fmt: skip
def test_which_camera_is_which(embodiment, made, expected):
    assert features(layout(embodiment, *made)) == expected


@pytest.mark.parametrize(
    ("embodiment", "made", "reason"),
    [
        (LIBERO, checkpoint("image", "image2", state=6), "trained with states of 6 values, libero has 8"),
        (LIBERO, checkpoint("image", "image2", action=8), "trained with actions of 8 values, libero has 7"),
        (DROID, checkpoint("image", "image2", action=8), f"{LEFT}: none of observation.images.exterior_1_left"),
        (LIBERO, checkpoint("image", "gripper"), f"{WRIST}: none of observation.images.image2"),
        (LIBERO, checkpoint("x", renamed={"image": "x", "image2": "x"}), "Say which is which"),
        (ALOHA, checkpoint("front", state=14, action=14), r"--policy\.camera_aliases='\{\"observation.images.cam_high\""),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_robot(embodiment, made, reason):
    with pytest.raises(ValueError, match=reason):
        layout(embodiment, *made)


@pytest.mark.parametrize(
    ("embodiment", "made", "noted"),
    [
        (LIBERO, checkpoint("image", "image2", "empty_camera_0"), []),
        (LIBERO, checkpoint("image"), [f"{WRIST} of libero is not used"]),
        (LIBERO, checkpoint(*OPENPI), ["observation.images.right_wrist_0_rgb of the checkpoint is in no observation"]),
        (ALOHA, checkpoint("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist", state=14, action=14), []),
        (ALOHA, checkpoint(*OPENPI, state=14, action=14), ["images/cam_low of aloha is not used", "joints 1, 2, 8 and 9"]),
    ],
)  # fmt: skip
def test_what_is_said_before_the_robot_moves(embodiment, made, noted):
    notes = layout(embodiment, *made).notes
    assert len(notes) == len(noted)
    assert all(part in note for part, note in zip(noted, notes, strict=True))


def frame(generator=None) -> np.ndarray:
    return (generator or np.random.default_rng(0)).integers(256, size=(48, 64, 3), dtype=np.uint8)


def aloha(**changes) -> dict:
    images = {name: frame().transpose(2, 0, 1) for name in ("cam_high", "cam_left_wrist", "cam_right_wrist")}
    return {"state": np.linspace(-1, 1, 14), "images": images, "prompt": "transfer the cube"} | changes


@pytest.fixture(scope="module")
def aloha_layout():
    return layout(ALOHA, *checkpoint("cam_high", "cam_left_wrist", state=14, action=14))


@pytest.mark.parametrize(
    "picture",
    [
        frame(),
        frame().transpose(2, 0, 1),
        (frame() / 255).astype(np.float32),
        frame().transpose(2, 0, 1) / 255,
        frame()[:, :, ::-1][:, :, ::-1],
    ],
    ids=["rows first", "channels first", "float", "double, channels first", "a view"],
)
def test_a_picture_is_the_same_however_it_is_laid_out(aloha_layout, picture):
    batch = aloha_layout.read(aloha(images={"cam_high": picture}))
    assert batch.keys() == {"observation.images.cam_high", "observation.state", "task", "robot_type"}
    got = batch["observation.images.cam_high"]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.from_numpy(frame()).permute(2, 0, 1)[None] / 255, atol=1e-7, rtol=0)


def test_lerobots_batch_but_for_the_order_in_memory():
    sent = {
        f"{OBS_IMAGES}.uint8": frame(),
        f"{OBS_IMAGES}.float": (frame() / 255).astype(np.float32),
        "observation.state": np.ones(3, np.float32),
    }
    expected = prepare_observation_for_inference(dict(sent), torch.device("cpu"), task="lift")
    got = prepare(sent, task="lift")
    assert got.keys() == expected.keys()
    assert all(
        torch.equal(got[key], expected[key]) if isinstance(got[key], torch.Tensor) else got[key] == expected[key]
        for key in got
    )
    assert got[f"{OBS_IMAGES}.uint8"].is_contiguous(memory_format=torch.channels_last)
    assert got[f"{OBS_IMAGES}.float"].data_ptr() == sent[f"{OBS_IMAGES}.float"].ctypes.data


@pytest.mark.parametrize("prompt", ["lift", b"lift", np.array("lift"), np.str_("lift"), np.array([b"lift"])])
def test_a_prompt(aloha_layout, prompt):
    assert aloha_layout.read(aloha(prompt=prompt))["task"] == "lift"


def test_the_prompt_of_clients_that_send_none():
    """ALOHA's simulation."""
    made = checkpoint("cam_high", state=14, action=14)
    observation = {"state": np.zeros(14), "images": {"cam_high": frame()}}
    assert layout(ALOHA, *made, default_prompt="transfer").read(observation)["task"] == "transfer"
    with pytest.raises(ValueError, match=r"has no prompt, the text of the task; send one, or .* --default-prompt"):
        layout(ALOHA, *made).read(observation)


def test_the_parts_of_a_state():
    """In DROID's order; the gripper may be a number."""
    droid = layout(DROID, *checkpoint("exterior_1_left", "wrist_left", action=8))
    observation = {LEFT: frame(), LEFT_WRIST: frame(), "observation/joint_position": np.arange(7.0), "prompt": "lift"}
    for gripper in (0.5, np.float32(0.5), np.array([0.5]), [0.5]):
        batch = droid.read(observation | {"observation/gripper_position": gripper})
        assert batch["observation.state"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 0.5]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state": None}, r"state: expected 14 numbers, got object \(\)"),
        ({"state": np.zeros(13)}, r"state: expected 14 numbers, got float64 \(13,\)"),
        ({"state": np.zeros((1, 14))}, r"state: expected 14 numbers, got float64 \(1, 14\)"),
        ({"state": ["one"] * 14}, "state: expected 14 numbers, got <U3"),
        ({"state": [[1.0], [1.0, 2.0]]}, "state: expected an array, got a list whose parts differ in length"),
        ({"state": np.array([*range(13), np.inf])}, "state: holds NaN or infinity at 13"),
        ({"images": {}}, "the observation has prompt, state; it lacks images/cam_high"),
        ({"images": {"cam_left_wrist": frame()}}, "it lacks images/cam_high"),
        ({"images": {"cam_high": frame(), "cam_left_wirst": frame()}}, "none is images/cam_left_wirst"),
        ({"images": {"cam_high": frame()[..., 0]}}, r"images/cam_high: expected a frame of \(height, width, 3\)"),
        ({"images": {"cam_high": frame().astype(np.int64)}}, "images/cam_high: expected uint8, or floating point"),
        ({"images": {"cam_high": "a.png"}}, "images/cam_high: expected a frame"),
        ({"prompt": 7}, "prompt: expected text, got int"),
        ({"prompt": b"\xff"}, "prompt: expected text, got bytes that are not UTF-8"),
        ({"images": reduce(lambda inner, _: {"a": inner}, range(500), {})}, "at most 8 dicts in one another"),
        ({7: 7}, "expected an observation's keys to be text, got 7"),
    ],
)  # fmt: skip
def test_an_observation_that_is_none(aloha_layout, changes, reason):
    with pytest.raises(ValueError, match=reason):
        aloha_layout.read(aloha() | changes)


@pytest.mark.parametrize("observation", [None, [1.0], "observation", np.zeros(3)])
def test_what_is_no_observation_at_all(aloha_layout, observation):
    with pytest.raises(ValueError, match="expected an observation, a dict, got"):
        aloha_layout.read(observation)


def test_what_an_observation_lacks_or_has_besides(aloha_layout):
    images = {"cam_high": frame(), "cam_low": frame()}
    assert aloha_layout.differences(aloha(images=images, session_id=3)) == [
        "no images/cam_left_wrist in the observations: the model sees nothing there",
        "not used of the observations: session_id",
    ]
    assert aloha_layout.differences(aloha()) == []


def test_the_checkpoints_own_keys():
    config, processors = checkpoint("front", "wrist", state=6, action=6, renamed={"gripper": "wrist"})
    own = layout(own_keys(config, [f"{OBS_IMAGES}.gripper"]), config, processors)
    assert not own.notes
    observation = {"observation.state": np.zeros(6), "task": "lift"}
    for names in (("front", "wrist"), ("front", "gripper"), ("wrist",)):
        batch = own.read(observation | {f"{OBS_IMAGES}.{name}": frame() for name in names})
        assert {key for key in batch if OBS_IMAGES in key} == {f"{OBS_IMAGES}.{name}" for name in names}
    for names, reason in (
        ((), "it needs at least one picture"),
        (("wrist", "gripper"), "more than one of its pictures is observation.images.wrist"),
        (("front", "wirst"), "none is observation.images.wirst"),
    ):
        with pytest.raises(ValueError, match=reason):
            own.read(observation | {f"{OBS_IMAGES}.{name}": frame() for name in names})


def openpis_libero_client(raw: dict[str, np.ndarray], prompt: str) -> dict:
    """What openpi's `examples/libero/main.py` (15a9616a) sends of a step of the simulator, whose pictures have its size."""
    quaternion = raw["robot0_eef_quat"]
    denominator = np.sqrt(1.0 - quaternion[3] * quaternion[3])
    near_zero = math.isclose(denominator, 0.0)
    axis_angle = np.zeros(3) if near_zero else quaternion[:3] * 2.0 * math.acos(quaternion[3]) / denominator
    return {
        IMAGE: np.ascontiguousarray(raw["agentview_image"][::-1, ::-1]),
        WRIST: np.ascontiguousarray(raw["robot0_eye_in_hand_image"][::-1, ::-1]),
        "observation/state": np.concatenate((raw["robot0_eef_pos"], axis_angle, raw["robot0_gripper_qpos"])),
        "prompt": prompt,
    }


@pytest.mark.parametrize("step", range(4))
def test_liberos_pictures_are_turned_once(step):
    """By openpi's client here, by LeRobot's `LiberoProcessorStep` there: the policy gets the same batch."""
    raw = Scene(1, step, 224, 224).raw()
    got = layout(LIBERO, *checkpoint("image", "image2")).read(openpis_libero_client(raw, "open the drawer"))
    pictures = {"image": "agentview_image", "image2": "robot0_eye_in_hand_image"}
    rows = {name: torch.from_numpy(raw[f"robot0_{name}"])[None] for name in ("eef_pos", "eef_quat", "gripper_qpos")}
    seen = {
        f"{OBS_IMAGES}.{name}": torch.tensor(raw[theirs].copy()).permute(2, 0, 1)[None] / 255
        for name, theirs in pictures.items()
    }
    seen["observation.robot_state"] = {
        "eef": {"pos": rows["eef_pos"], "quat": rows["eef_quat"]},
        "gripper": {"qpos": rows["gripper_qpos"]},
    }
    want = LiberoProcessorStep().observation(seen)
    for name in pictures:
        assert torch.equal(got[f"{OBS_IMAGES}.{name}"], want[f"{OBS_IMAGES}.{name}"])
    torch.testing.assert_close(got["observation.state"], want["observation.state"], atol=1e-6, rtol=1e-6)
