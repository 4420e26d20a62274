"""Makes LeRobot run checkpoints of type `pi05` on this package; see `plugins.as_pi0`.

lerobot-eval --discover_packages_path=lerobot_pi0_ttnn.plugins.as_pi05 --policy.path=lerobot/pi05_base ...
"""

from lerobot.configs import PreTrainedConfig

from ...configuration_pi05_ttnn import PI05TTNNConfig

PreTrainedConfig._choice_registry["pi05"] = PI05TTNNConfig
