"""Modules that change what LeRobot does. None is imported unless a user names it."""
