"""What a user of pi0.5 may choose: what a user of pi0 may. LeRobot finds this module by its name."""

from dataclasses import dataclass, field
from typing import ClassVar

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.policies.pi05.configuration_pi05 import PI05Config

from .configuration_pi0_ttnn import PI0TTNNConfig
from .model.config import PI0ModelConfig, as_pi05


@PreTrainedConfig.register_subclass("pi05_ttnn")
@dataclass
class PI05TTNNConfig(PI0TTNNConfig, PI05Config):
    """LeRobot's `PI05Config` and what is ours to choose: LeRobot's has pi0's fields, two with other defaults."""

    model_name: ClassVar[str] = "pi0.5"

    tokenizer_max_length: int = 200
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.QUANTILES,
            "ACTION": NormalizationMode.QUANTILES,
        }
    )

    def model_config(self) -> PI0ModelConfig:
        """Returns the sizes of the model."""
        return as_pi05(super().model_config())
