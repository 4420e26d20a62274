"""What openpi's clients of each kind of robot send, by which keys, and what LeRobot's checkpoints call the same.

Sources: openpi `examples/{droid,aloha_sim,aloha_real,libero,simple_client}/main.py` and `src/openpi/policies/*_policy.py`
(15a9616a); roboarena `roboarena/policy_server.py` (6fa329f). Keys of nested dicts are joined by `/`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lerobot.utils.constants import OBS_IMAGES, OBS_STATE

from ....configuration_pi0_ttnn import PI0TTNNConfig

BASE, LEFT_WRIST, RIGHT_WRIST = "base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"
"""openpi's own names, which its pretrained checkpoints have; they come last among a camera's names."""


@dataclass(frozen=True)
class Camera:
    """A picture that a client sends.

    Attributes:
        key: the client's.
        features: what a checkpoint may call it, the likeliest first.
        is_required: whether every observation has it; one that may be absent is masked.
    """

    key: str
    features: tuple[str, ...]
    is_required: bool = True


@dataclass(frozen=True)
class Embodiment:
    """Attributes, of one kind of robot.

    Attributes:
        name: as in `--embodiment`.
        cameras: in any order.
        state: the client's key and the number of values of each part of the state, in the order of training.
        action_dim: number of values of an action.
        prompts: keys of the task's text, of which an observation has one or none.
        pictures: how the keys of all pictures begin, where some may be absent: another such key is a mistake.
        horizon: what the clients of that robot insist on, if anything.
        advice: what its user should know before the robot moves; empty if nothing.
    """

    name: str
    cameras: tuple[Camera, ...]
    state: tuple[tuple[str, int], ...]
    action_dim: int
    prompts: tuple[str, ...] = ("prompt",)
    pictures: str | None = None
    horizon: int | None = None
    advice: str = ""

    @property
    def state_dim(self) -> int:
        """Returns the number of values of a state."""
        return sum(width for _, width in self.state)


def _camera(key: str, *names: str, is_required: bool = True) -> Camera:
    return Camera(key, tuple(f"{OBS_IMAGES}.{name}" for name in names), is_required)


_JOINTS_AND_GRIPPER = (("observation/joint_position", 7), ("observation/gripper_position", 1))
_WRIST = _camera("observation/wrist_image_left", "wrist_left", "wrist_image_left", LEFT_WRIST)

DROID = Embodiment(
    name="droid",
    cameras=(_camera("observation/exterior_image_1_left", "exterior_1_left", "exterior_image_1_left", BASE), _WRIST),
    state=_JOINTS_AND_GRIPPER,
    action_dim=8,
    horizon=10,
)
ROBOARENA = Embodiment(
    name="roboarena",
    cameras=(
        _camera("observation/exterior_image_0_left", "exterior_1_left", "exterior_image_1_left", BASE),
        _camera("observation/exterior_image_1_left", "exterior_2_left", "exterior_image_2_left", is_required=False),
        _WRIST,
    ),
    state=_JOINTS_AND_GRIPPER,
    action_dim=8,
)
ALOHA = Embodiment(
    name="aloha",
    cameras=(
        _camera("images/cam_high", "cam_high", "top", BASE),
        _camera("images/cam_low", "cam_low", is_required=False),
        _camera("images/cam_left_wrist", "cam_left_wrist", LEFT_WRIST, is_required=False),
        _camera("images/cam_right_wrist", "cam_right_wrist", RIGHT_WRIST, is_required=False),
    ),
    state=(("state", 14),),
    action_dim=14,
    pictures="images/",
    advice="states and actions pass as the client has them: openpi's own ALOHA checkpoints, converted, have joints 1, 2, 8 and "
    "9 turned the other way and angular grippers (its adapt_to_pi), which nothing undoes here; a checkpoint that LeRobot "
    "trained has neither",
)
LIBERO = Embodiment(
    name="libero",
    cameras=(
        _camera("observation/image", "image", BASE),
        _camera("observation/wrist_image", "image2", "wrist_image", LEFT_WRIST),
    ),
    state=(("observation/state", 8),),
    action_dim=7,
)
NAMED = {embodiment.name: embodiment for embodiment in (DROID, ALOHA, LIBERO)}
LEROBOT = "lerobot"
"""`--embodiment` of clients that send the checkpoint's own keys."""


def own_keys(config: PI0TTNNConfig, renamed: Sequence[str]) -> Embodiment:
    """Returns the embodiment of clients that send what the checkpoint calls its observations.

    Args:
        config: the checkpoint's.
        renamed: further names of its cameras, from which it renames them.
    """
    state, action = config.robot_state_feature, config.action_feature
    return Embodiment(
        name=LEROBOT,
        cameras=tuple(Camera(key, (key,), is_required=False) for key in (*config.image_features, *renamed)),
        state=((OBS_STATE, state.shape[0]),),
        action_dim=action.shape[0],
        prompts=("task", "prompt"),
        pictures="observation.image",
    )
