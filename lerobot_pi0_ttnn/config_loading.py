"""From a checkpoint's config.json to the config of its policy, whichever LeRobot wrote it."""

import dataclasses
import functools
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import draccus
from lerobot.configs import PreTrainedConfig
from lerobot.policies.rtc.configuration_rtc import RTCConfig

from .checkpoint.config_fields import settle_fields
from .checkpoint.files import CONFIG_FILE, CheckpointSource, read_json
from .checkpoint.openpi import why_not_lerobots
from .configuration_pi0_ttnn import PI0TTNNConfig
from .configuration_pi05_ttnn import PI05TTNNConfig

logger = logging.getLogger(__name__)

CONFIGS: dict[str, type[PI0TTNNConfig]] = {
    "pi0": PI0TTNNConfig,
    "pi0_ttnn": PI0TTNNConfig,
    "pi05": PI05TTNNConfig,
    "pi05_ttnn": PI05TTNNConfig,
}
"""By the policy type in config.json, LeRobot's and ours."""
MODELS = ("pi0", "pi05")
"""What a user calls a model for which there is no checkpoint: LeRobot's policy types."""
LEROBOT_ARGUMENTS = {"strict", "dataset_stats", "dataset_meta", "resume_download", "proxies"}
"""What LeRobot's factory and mixin pass to every policy and has no meaning here: loading is always strict."""


def load_config(source: CheckpointSource, cli_overrides: Sequence[str] = ()) -> PI0TTNNConfig:
    """Returns the config of a checkpoint of pi0 or pi0.5, whether LeRobot or this package wrote it.

    Fields of other LeRobot releases are left out with a warning where they change nothing, and else refused.

    Args:
        source: where the checkpoint is.
        cli_overrides: `--field=value` for each field that the user set.

    Raises:
        FileNotFoundError: the checkpoint has no config.json.
        ValueError: it is not JSON, or of a policy that is neither, or openpi's, which is to be converted.
    """
    if openpi := why_not_lerobots(source):
        raise ValueError(openpi)
    path = source.find(CONFIG_FILE)
    if path is None:
        raise FileNotFoundError(f"{source}: has no {CONFIG_FILE}; give the folder that LeRobot saved the policy in.")
    return parse_config(read_json(path), str(path), cli_overrides)


def saved_type(source: CheckpointSource) -> str:
    """Returns the policy type that a checkpoint's config.json names; empty where there is none, or none can be had."""
    try:
        path = source.find(CONFIG_FILE)
        return str(read_json(path).get("type", "")) if path else ""
    except (OSError, ValueError):  # whoever needs the file says why it cannot be read
        return ""


def parse_config(fields: dict[str, Any], where: str, cli_overrides: Sequence[str] = ()) -> PI0TTNNConfig:
    """Returns the config that the fields of a config.json describe; see `load_config`."""
    policy_type = fields.get("type")
    config_class = CONFIGS.get(policy_type or "")
    if config_class is None:
        raise ValueError(
            f"{where}: expected a policy of type {', '.join(CONFIGS)}, got {policy_type!r}; this package runs pi0 and pi0.5."
        )
    try:
        kept = _settle({name: value for name, value in fields.items() if name != "type"}, where)
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error
    with tempfile.TemporaryDirectory() as folder, draccus.config_type("json"):
        file = Path(folder) / CONFIG_FILE
        file.write_text(json.dumps(kept))
        try:
            config: PI0TTNNConfig = draccus.parse(config_class, file, args=list(cli_overrides))
        except draccus.ParsingError as error:
            raise ValueError(f"{where}: {error.__cause__ or error}") from error
    config.given = frozenset(field.name for field in dataclasses.fields(config))  # what it left out had its default
    return config


def _settle(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns the fields without those of other releases that change nothing, which are logged; see `settle_fields`."""
    known, known_of_rtc = ({field.name for field in dataclasses.fields(each)} for each in (PI0TTNNConfig, RTCConfig))
    settled = settle_fields(fields, known, known_of_rtc)
    if settled.left_out:
        logger.warning("%s: fields of another LeRobot release are left out: %s", where, ", ".join(settled.left_out))
    return settled.fields


def _reading(from_pretrained: Callable[..., PreTrainedConfig]) -> Callable[..., PreTrainedConfig]:
    """Returns LeRobot's own way to read a config, with this package's for what is to become one of this package's configs.

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
        ours = CONFIGS.get(policy_type or "")
        if ours is None or PreTrainedConfig.get_choice_class(policy_type) is not ours:
            return from_pretrained(cls, pretrained_name_or_path, **named)
        return load_config(source, named.get("cli_overrides") or ())

    return read


PreTrainedConfig.from_pretrained = classmethod(_reading(PreTrainedConfig.from_pretrained.__func__))


def adopt_checkpoint_config(config: PI0TTNNConfig, source: CheckpointSource) -> None:
    """Lets a config that names some fields only take all the others from the checkpoint.

    With `--policy.path` LeRobot reads the checkpoint's config itself; with `--policy.type` and `--policy.pretrained_path`
    it does not, and would run, say, a checkpoint of 10 action steps with 50. What was given when the config was made, or has
    been changed since, is kept: LeRobot writes the environment's or the data set's features into it. Its cameras' names are
    not those of the checkpoint, whose input features count.
    """
    left_open = [
        field.name
        for field in dataclasses.fields(config)
        if field.name not in config.given
        and (field.name == "input_features" or getattr(config, field.name) == _default(field))
    ]
    if left_open:
        saved = load_config(source)
        for name in left_open:
            setattr(config, name, getattr(saved, name))


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def check_type(policy_type: str, wanted: type[PI0TTNNConfig], where: object) -> None:
    """Raises ValueError where a checkpoint is of pi0.5 and the policy of pi0, or the reverse.

    Args:
        policy_type: what the checkpoint's config.json names.
        wanted: the policy's class of configs.
        where: the checkpoint, for the message.
    """
    saved = CONFIGS.get(policy_type, wanted)
    if saved is not wanted:
        raise ValueError(
            f"{where}: this is a checkpoint of {saved.model_name} (type {policy_type!r}), and was to be loaded as one of "
            f"{wanted.model_name}; name the type {policy_type.removesuffix('_ttnn')}_ttnn, or none: --policy.path and "
            "load_policy take the checkpoint's."
        )


def choose_config(
    wanted: type[PI0TTNNConfig], config: PreTrainedConfig | None, source: CheckpointSource, arguments: dict[str, Any]
) -> PI0TTNNConfig:
    """Returns the config that a policy's `from_pretrained` loads with.

    Args:
        wanted: the policy's class of configs.
        config: what the caller gave it; the checkpoint's own where nothing.
        source: the checkpoint.
        arguments: further ones of the caller, fields to set; what LeRobot passes to every policy counts for nothing.

    Raises:
        TypeError: an argument that is neither, or a config of another policy.
        ValueError: the checkpoint is of pi0 and the policy of pi0.5, or the reverse; or see `load_config`.
        FileNotFoundError: see `load_config`.
    """
    fields = {field.name for field in dataclasses.fields(wanted)}
    unknown = sorted(arguments.keys() - fields - LEROBOT_ARGUMENTS)
    if unknown:
        raise TypeError(f"from_pretrained: neither an argument nor a field of {wanted.__name__}: {', '.join(unknown)}")
    if config is not None and type(config) is not wanted:
        raise TypeError(
            f"config: expected {wanted.__name__}, got {type(config).__name__}; leave it out, and the checkpoint's is used."
        )
    check_type(saved_type(source), wanted, source)
    if config is None:
        config = load_config(source)
    else:
        adopt_checkpoint_config(config, source)
    overrides = {name: value for name, value in arguments.items() if name in fields}
    return dataclasses.replace(config, **overrides) if overrides else config
