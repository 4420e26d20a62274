"""The policy of a checkpoint, whichever of pi0 and pi0.5 it is of."""

import dataclasses
from pathlib import Path
from typing import Any

from lerobot.configs import PreTrainedConfig

from .checkpoint.files import CheckpointSource
from .config_loading import load_config
from .modeling_pi0_ttnn import PI0TTNNPolicy
from .modeling_pi05_ttnn import PI05TTNNPolicy

POLICIES: dict[type[PreTrainedConfig], type[PI0TTNNPolicy]] = {
    policy.config_class: policy for policy in (PI0TTNNPolicy, PI05TTNNPolicy)
}
"""By the class of their configs."""


def load_policy(
    pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **arguments: Any
) -> PI0TTNNPolicy:
    """Returns the policy of a checkpoint of pi0 or pi0.5, of the class that its config.json calls for.

    Args:
        pretrained_name_or_path: a folder, or `owner/name` on the Hub.
        config: the config to use; the checkpoint's own by default.
        arguments: as of `PI0TTNNPolicy.from_pretrained`: where to look, and fields of the config to set.

    Raises:
        TypeError: a config of another policy.
        ImportError, OSError, TypeError, ValueError: see `PI0TTNNPolicy.from_pretrained`.
    """
    if config is None:
        hub = {field.name for field in dataclasses.fields(CheckpointSource)} & arguments.keys()
        config = load_config(CheckpointSource(pretrained_name_or_path, **{name: arguments[name] for name in hub}))
    kind = type(config)
    if kind not in POLICIES:
        raise TypeError(f"config: expected one of pi0_ttnn or pi05_ttnn, got {kind.__name__}; leave it out.")
    return POLICIES[kind].from_pretrained(pretrained_name_or_path, config=config, **arguments)
