"""The policy of pi0.5. LeRobot finds this module by its name."""

from .configuration_pi05_ttnn import PI05TTNNConfig
from .modeling_pi0_ttnn import PI0TTNNPolicy


class PI05TTNNPolicy(PI0TTNNPolicy):
    """pi0.5 as a LeRobot policy, for inference: as `PI0TTNNPolicy`, with the state in the prompt."""

    config_class = PI05TTNNConfig
    name = "pi05_ttnn"
