"""Installed as `lerobot_policy_pi0_ttnn`, the name LeRobot's plug-in scan imports: it registers the policy type `pi0_ttnn`."""

import lerobot_pi0_ttnn  # noqa: F401
