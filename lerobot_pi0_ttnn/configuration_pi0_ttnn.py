"""What a user may choose. LeRobot finds this module by its name."""

import dataclasses
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
from lerobot.configs import PolicyFeature, PreTrainedConfig, parser
from lerobot.policies.pi0.configuration_pi0 import PI0Config

from .checkpoint.files import CheckpointSource
from .model_config import GEMMA_VARIANTS, TINY, PI0ModelConfig

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
BACKENDS = ("ttnn", "torch")
ARCHITECTURES = ("pi0", "tiny")
PRECISIONS = ("accurate", "balanced", "fast")
POLICY_TYPES = ("pi0", "pi0_ttnn")
DEVICE_ALIASES = ("tt", "ttnn")
LEROBOT_ARGUMENTS = {"strict", "dataset_stats", "dataset_meta", "resume_download", "proxies"}
"""What LeRobot's factory and mixin pass to every policy and has no meaning here: loading is always strict."""


@PreTrainedConfig.register_subclass("pi0_ttnn")
@dataclass
class PI0TTNNConfig(PI0Config):
    """LeRobot's `PI0Config` and what is ours to choose. Fields of training are kept for the round trip, not used.

    Raises:
        ValueError: a choice that does not exist or that this package cannot honour, with the valid ones.
    """

    backend: str = "ttnn"
    """What computes: `ttnn` (a Tenstorrent card) or `torch` (the CPU, in `dtype`). There is no fallback."""
    board: str = "auto"
    """Which Tenstorrent board: `auto`, the first chip; `0`, `1`, ..., that chip; `0,1`, both, which share a batch's rows;
    `emulated:n150` and the like, none at all (see `emulation/`: exact, slow)."""
    precision: str = "balanced"
    """Of the ttnn backend: `accurate`, `balanced` or `fast`, see `tt/precision.py`."""
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
    camera_aliases: dict[str, str] = dataclasses.field(default_factory=dict)
    """The robot's name of a camera -> the checkpoint's. Loading adds what the saved preprocessor renames: lerobot-eval and
    lerobot-rollout replace its renaming by --rename_map, and by none where that is not given."""
    clamp_actions: bool = False
    """Whether actions are kept within the range of the data set that the checkpoint was trained on."""
    time_stages: bool = False
    """Whether `policy.latency()` tells the stages of a chunk apart on a card, which then runs op by op and waits for each."""
    recording_path: Path | None = None
    """If set: every predicted chunk and every executed action is written to this file, see `recording.py`."""

    def __post_init__(self) -> None:
        self._place_on_host()
        super().__post_init__()
        _check_choice("backend", self.backend, BACKENDS)
        _check_choice("architecture", self.architecture, ARCHITECTURES)
        _check_choice("precision", self.precision, PRECISIONS)
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
            logger.info("device=%s: batches stay on the CPU; the backend (%s) computes.", device, self.backend)
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


def load_config(source: CheckpointSource, cli_overrides: Sequence[str] = ()) -> PI0TTNNConfig:
    """Returns the config of a checkpoint, whether LeRobot's pi0 or this package wrote it.

    Fields that neither knows (LeRobot <= 0.3 wrote some, newer releases may) are left out with a warning.

    Args:
        source: where the checkpoint is.
        cli_overrides: `--field=value` for each field that the user set.

    Raises:
        FileNotFoundError: the checkpoint has no config.json.
        ValueError: it is not JSON, or of a policy that is not pi0.
    """
    path = source.find(CONFIG_FILE)
    if path is None:
        raise FileNotFoundError(f"{source}: has no {CONFIG_FILE}; give the folder that LeRobot saved the policy in.")
    return parse_config(_read_json(path), str(path), cli_overrides)


def saved_type(source: CheckpointSource) -> str:
    """Returns the policy type that a checkpoint's config.json names, which `load_config` has found good."""
    path = source.find(CONFIG_FILE)
    return str(_read_json(path)["type"]) if path else ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); fetch it again.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(fields).__name__}; fetch it again.")
    return fields


def parse_config(fields: dict[str, Any], where: str, cli_overrides: Sequence[str] = ()) -> PI0TTNNConfig:
    """Returns the config that the fields of a config.json describe; see `load_config`."""
    policy_type = fields.get("type")
    if policy_type not in POLICY_TYPES:
        raise ValueError(
            f"{where}: expected a policy of type {' or '.join(POLICY_TYPES)}, got {policy_type!r}; this package runs pi0 only."
        )
    known = {field.name for field in dataclasses.fields(PI0TTNNConfig)}
    unknown = sorted(fields.keys() - known - {"type"})
    if unknown:
        logger.warning("%s: fields of another LeRobot release are left out: %s", where, ", ".join(unknown))
    kept = {name: value for name, value in fields.items() if name in known}
    with tempfile.TemporaryDirectory() as folder, draccus.config_type("json"):
        file = Path(folder) / CONFIG_FILE
        file.write_text(json.dumps(kept))
        try:
            config: PI0TTNNConfig = draccus.parse(PI0TTNNConfig, file, args=list(cli_overrides))
        except draccus.ParsingError as error:
            raise ValueError(f"{where}: {error.__cause__ or error}") from error
    return config


def adopt_checkpoint_config(config: PI0TTNNConfig, source: CheckpointSource) -> None:
    """Lets a config that LeRobot built from `--policy.type` alone take all that the user left open from the checkpoint.

    With `--policy.path` LeRobot reads the checkpoint's config itself; with `--policy.type` and `--policy.pretrained_path`
    it does not, and would run, say, a checkpoint of 10 action steps with 50. The environment's or data set's
    `output_features` are kept where LeRobot has filled them in.
    """
    if parser.get_type_arg("policy") is None or parser.get_path_arg("policy") is not None:
        return
    outputs = config.output_features
    saved = load_config(source, parser.get_cli_overrides("policy") or ())
    for field in dataclasses.fields(config):
        setattr(config, field.name, getattr(saved, field.name))
    config.output_features = outputs or saved.output_features


def choose_config(
    config: PreTrainedConfig | None, source: CheckpointSource, arguments: dict[str, Any]
) -> PI0TTNNConfig:
    """Returns the config that `PI0TTNNPolicy.from_pretrained` loads with.

    Args:
        config: what the caller gave it; the checkpoint's own where nothing.
        source: the checkpoint.
        arguments: further ones of the caller, fields to set; what LeRobot passes to every policy counts for nothing.

    Raises:
        TypeError: an argument that is neither, or a config of another policy.
        FileNotFoundError, ValueError: see `load_config`.
    """
    fields = {field.name for field in dataclasses.fields(PI0TTNNConfig)}
    unknown = sorted(arguments.keys() - fields - LEROBOT_ARGUMENTS)
    if unknown:
        raise TypeError(f"from_pretrained: neither an argument nor a field of PI0TTNNConfig: {', '.join(unknown)}")
    if config is None:
        config = load_config(source)
    elif isinstance(config, PI0TTNNConfig):
        adopt_checkpoint_config(config, source)
    else:
        raise TypeError(
            f"config: expected PI0TTNNConfig, got {type(config).__name__}; leave it out, and the checkpoint's is used."
        )
    overrides = {name: value for name, value in arguments.items() if name in fields}
    return dataclasses.replace(config, **overrides) if overrides else config
