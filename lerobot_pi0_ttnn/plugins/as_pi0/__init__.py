"""Makes LeRobot run checkpoints of type `pi0` on this package, and only those; see `plugins` for all.

    lerobot-eval --discover_packages_path=lerobot_pi0_ttnn.plugins.as_pi0 --policy.path=lerobot/pi0_base ...

`draccus` has no way to replace a registered choice, so its registry is written to.
"""

from lerobot.configs import PreTrainedConfig

from ...configuration_pi0_ttnn import PI0TTNNConfig

PreTrainedConfig._choice_registry["pi0"] = PI0TTNNConfig
