"""Installed as `lerobot_policy_pi0_ttnn`, the name that LeRobot's plug-in scan imports: registers both policy types."""

import lerobot_pi0_ttnn  # noqa: F401
