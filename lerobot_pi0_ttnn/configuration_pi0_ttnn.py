"""What a user may choose. LeRobot finds this module by its name."""

import dataclasses
import functools
import json
import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
from lerobot.configs import PolicyFeature, PreTrainedConfig, parser
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.rtc.configuration_rtc import RTCConfig

from .checkpoint.config_fields import settle_fields
from .checkpoint.files import CONFIG_FILE, CheckpointSource, read_json
from .checkpoint.openpi import why_not_lerobots
from .model.config import GEMMA_VARIANTS, TINY, PI0ModelConfig

logger = logging.getLogger(__name__)

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
    trace_region_mb: int | None = None
    """DRAM of each chip that is reserved for traces; 1024 by default, or what the board has that is open already."""
    operation_timeout_s: float | None = None
    """After so many seconds without progress a card counts as hung; 0: never. By default what the environment variable
    TT_METAL_OPERATION_TIMEOUT_SECONDS says, else 30."""
    throttle: int = 0
    """Of the matmuls on a board: 0, full speed; 1 to 5: 73, 67, 50, 40, 33 % of it, for a card that hangs under load."""
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
    """Whether `policy.latency()` tells the stages of a chunk apart on a card, which then runs eagerly and waits for each."""
    recording_path: Path | None = None
    """If set: every predicted chunk and every executed action is written to this file, see `recording.py`."""

    def __post_init__(self) -> None:
        self.checkpoint: CheckpointSource | None = None  # not a field: where it was loaded from is nothing to save
        self._place_on_host()
        super().__post_init__()
        _check_choice("backend", self.backend, BACKENDS)
        _check_choice("architecture", self.architecture, ARCHITECTURES)
        _check_choice("precision", self.precision, PRECISIONS)
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


def load_config(source: CheckpointSource, cli_overrides: Sequence[str] = ()) -> PI0TTNNConfig:
    """Returns the config of a checkpoint, whether LeRobot's pi0 or this package wrote it.

    Fields of other LeRobot releases are left out with a warning where they change nothing, and else refused.

    Args:
        source: where the checkpoint is.
        cli_overrides: `--field=value` for each field that the user set.

    Raises:
        FileNotFoundError: the checkpoint has no config.json.
        ValueError: it is not JSON, or of a policy that is not pi0, or openpi's, which is to be converted.
    """
    if openpi := why_not_lerobots(source):
        raise ValueError(openpi)
    path = source.find(CONFIG_FILE)
    if path is None:
        raise FileNotFoundError(f"{source}: has no {CONFIG_FILE}; give the folder that LeRobot saved the policy in.")
    return parse_config(read_json(path), str(path), cli_overrides)


def saved_type(source: CheckpointSource) -> str:
    """Returns the policy type that a checkpoint's config.json names, which `load_config` has found good."""
    path = source.find(CONFIG_FILE)
    return str(read_json(path)["type"]) if path else ""


def parse_config(fields: dict[str, Any], where: str, cli_overrides: Sequence[str] = ()) -> PI0TTNNConfig:
    """Returns the config that the fields of a config.json describe; see `load_config`."""
    policy_type = fields.get("type")
    if policy_type not in POLICY_TYPES:
        raise ValueError(
            f"{where}: expected a policy of type {' or '.join(POLICY_TYPES)}, got {policy_type!r}; this package runs pi0 only."
        )
    try:
        kept = _settle({name: value for name, value in fields.items() if name != "type"}, where)
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error
    with tempfile.TemporaryDirectory() as folder, draccus.config_type("json"):
        file = Path(folder) / CONFIG_FILE
        file.write_text(json.dumps(kept))
        try:
            config: PI0TTNNConfig = draccus.parse(PI0TTNNConfig, file, args=list(cli_overrides))
        except draccus.ParsingError as error:
            raise ValueError(f"{where}: {error.__cause__ or error}") from error
    return config


def _settle(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns the fields without those of other releases that change nothing, which are logged; see `settle_fields`."""
    known, known_of_rtc = ({field.name for field in dataclasses.fields(each)} for each in (PI0TTNNConfig, RTCConfig))
    settled = settle_fields(fields, known, known_of_rtc)
    if settled.left_out:
        logger.warning("%s: fields of another LeRobot release are left out: %s", where, ", ".join(settled.left_out))
    return settled.fields


def _reading(from_pretrained: Callable[..., PreTrainedConfig]) -> Callable[..., PreTrainedConfig]:
    """Returns LeRobot's own way to read a config, with this package's for what is to become a `PI0TTNNConfig`.

    LeRobot's hands a file to draccus, which refuses it for a field of another release and does not say what to do. (draccus
    takes no decoder for a class that its command line may choose.)
    """

    @functools.wraps(from_pretrained)
    def read(cls: type[PreTrainedConfig], pretrained_name_or_path: str | Path, **named: Any) -> PreTrainedConfig:
        hub = ("revision", "token", "cache_dir", "local_files_only", "force_download")
        source = CheckpointSource(
            pretrained_name_or_path, **{name: named[name] for name in hub if named.get(name) is not None}
        )
        try:
            file = source.find(CONFIG_FILE)
            policy_type = read_json(file).get("type") if file else None
        except (OSError, ValueError):  # LeRobot says it its way
            policy_type = None
        if policy_type not in POLICY_TYPES or PreTrainedConfig.get_choice_class(policy_type) is not PI0TTNNConfig:
            return from_pretrained(cls, pretrained_name_or_path, **named)
        return load_config(source, named.get("cli_overrides") or ())

    return read


PreTrainedConfig.from_pretrained = classmethod(_reading(PreTrainedConfig.from_pretrained.__func__))


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
