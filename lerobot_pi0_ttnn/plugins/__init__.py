"""Modules that change what LeRobot does. None is imported unless a user names it.

This folder's own name means all of them:

    lerobot-eval --discover_packages_path=lerobot_pi0_ttnn.plugins --policy.path=lerobot/pi05_base ...
"""
