"""What a user may choose. LeRobot finds this module by its name."""

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from lerobot.configs import PolicyFeature, PreTrainedConfig
from lerobot.policies.pi0.configuration_pi0 import PI0Config

from .checkpoint.files import CheckpointSource
from .model.config import GEMMA_VARIANTS, TINY, PI0ModelConfig

logger = logging.getLogger(__name__)

BACKENDS = ("ttnn", "torch")
ARCHITECTURES = ("pi0", "tiny")
PRECISIONS = ("accurate", "balanced", "fast")
PROGRAMS = ("ours", "stock")
DEVICE_ALIASES = ("tt", "ttnn")


@PreTrainedConfig.register_subclass("pi0_ttnn")
@dataclass
class PI0TTNNConfig(PI0Config):
    """LeRobot's `PI0Config` and what is ours to choose. Fields of training are kept for the round trip, not used.

    Raises:
        ValueError: a choice that does not exist or that this package cannot honour, with the valid ones.
    """

    model_name: ClassVar[str] = "pi0"
    """What people call the model, for messages."""

    backend: str = "ttnn"
    """What computes: `ttnn` (a Tenstorrent card) or `torch` (the CPU, in `dtype`). There is no fallback."""
    board: str = "auto"
    """Which Tenstorrent board: `auto`, the first chip; `0`, `1`, ..., that chip; `0,1`, both, which share a batch's rows;
    `emulated:n150` and the like, none at all (see `emulation/`: exact, slow)."""
    precision: str = "balanced"
    """Of the ttnn backend: `accurate`, `balanced` or `fast`, see `tt/precision.py`."""
    trace_region_mb: int | None = None
    """DRAM of each chip that is reserved for traces; 1024 by default, or what the board has that is open already."""
    operation_timeout_s: float | None = None
    """After so many seconds without progress a card counts as hung; 0: never. By default what the environment variable
    TT_METAL_OPERATION_TIMEOUT_SECONDS says, else 30."""
    throttle: int = 0
    """Of the matmuls on a board: 0, full speed; 1 to 5: 73, 67, 50, 40, 33 % of it, for a card that hangs under load."""
    programs: str = "ours"
    """Of the ttnn backend: `ours`, or `stock`: no kernel and no program config of this package, for a card or a release of ttnn
    on which one of them fails. Slower, and as exact."""
    cache_weights: bool = True
    """Whether the ttnn backend keeps converted weights on disk, so that the next start takes seconds."""
    weight_cache_dir: Path | None = None
    """Where; in Hugging Face's cache folder by default."""
    architecture: str = "pi0"
    """`pi0`, with the sizes that `paligemma_variant` and `action_expert_variant` name, or `tiny`, for demos and tests."""
    base_model: str | None = None
    """Of a LoRA adapter: its base model's folder or Hub id, where that is not what its adapter_config.json says."""
    tokenizer_name: str = "google/paligemma-3b-pt-224"
    """Folder or Hub id of the tokenizer, where processors are made anew; saved ones name their own."""
    warm_up: bool = True
    """Whether `from_pretrained` runs the model before it returns, so that the first tick costs what every tick costs."""
    verify_first: bool = False
    """Whether the first chunk of a session is compared with the float32 twin on the CPU before it is handed out; over the limit
    it raises. Takes the twin's memory and seconds, once, see `certificate.py`."""
    camera_aliases: dict[str, str] = dataclasses.field(default_factory=dict)
    """The robot's name of a camera -> the checkpoint's. Loading adds what the saved preprocessor renames: lerobot-eval and
    lerobot-rollout replace its renaming by --rename_map, and by none where that is not given."""
    clamp_actions: bool = False
    """Whether actions are kept within the range of the data set that the checkpoint was trained on."""
    time_stages: bool = False
    """Whether `policy.latency()` tells the stages of a chunk apart on a card, which then runs eagerly and waits for each."""
    recording_path: Path | None = None
    """If set: every predicted chunk and every executed action is written to this file, see `recording.py`."""

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        """Returns a config that knows which fields it was given by name, as draccus and LeRobot give them."""
        config: Self = super().__new__(cls)
        config.given = frozenset(kwargs)
        return config

    def __post_init__(self) -> None:
        self.checkpoint: CheckpointSource | None = None  # not a field: where it was loaded from is nothing to save
        self._place_on_host()
        super().__post_init__()
        _check_choice("backend", self.backend, BACKENDS)
        _check_choice("architecture", self.architecture, ARCHITECTURES)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("programs", self.programs, PROGRAMS)
        _check_range("trace_region_mb", self.trace_region_mb, 1, 4096)
        _check_range("operation_timeout_s", self.operation_timeout_s, 0, math.inf)
        _check_range("throttle", self.throttle, 0, 5)
        self.use_peft = (
            False  # the loader merges adapters itself; LeRobot would wrap torch modules, of which we have none
        )
        if self.image_resolution[0] != self.image_resolution[1]:
            raise ValueError(f"image_resolution: expected a square, got {self.image_resolution}")
        for name in ("use_amp", "compile_model"):
            if getattr(self, name):
                logger.warning("%s has no effect on this policy, which chooses its own precision and kernels.", name)
                setattr(self, name, False)

    def _place_on_host(self) -> None:
        """Keeps LeRobot's tensors on the CPU, whatever device a checkpoint or a GPU machine suggests."""
        device: str = self.device or "cpu"
        name, _, number = device.partition(":")
        if name in DEVICE_ALIASES:
            self.board = number or self.board
        elif name != "cpu":
            logger.warning(
                "device=%s is not used: batches stay on the CPU, and the backend (%s) computes.", device, self.backend
            )
        self.device: str | None = "cpu"

    @property
    def image_features(self) -> dict[str, PolicyFeature]:
        """Returns the cameras of the model by the checkpoint's names; `input_features` has the robot's besides."""
        cameras: dict[str, PolicyFeature] = super().image_features
        return {key: feature for key, feature in cameras.items() if key not in self.camera_aliases}

    def model_config(self) -> PI0ModelConfig:
        """Returns the sizes of the model."""
        if self.architecture == "tiny":
            sizes = TINY
        else:
            sizes = PI0ModelConfig(
                vlm=GEMMA_VARIANTS[self.paligemma_variant], expert=GEMMA_VARIANTS[self.action_expert_variant]
            )
        return dataclasses.replace(
            sizes,
            vision=dataclasses.replace(sizes.vision, image_size=self.image_resolution[0]),
            state_dim=self.max_state_dim,
            action_dim=self.max_action_dim,
            horizon=self.chunk_size,
            num_steps=self.num_inference_steps,
            min_period=self.min_period,
            max_period=self.max_period,
        )


def _check_choice(field: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ValueError(f"{field}: expected one of {', '.join(valid)}, got {value!r}")


def _check_range(field: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not least <= value <= most:
        bounds = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
        raise ValueError(f"{field}: expected {bounds}, got {value}")
