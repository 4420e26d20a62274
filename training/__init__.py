"""How the small learned checkpoints were made: demonstrations, LeRobot's own policies and their own loss. Not in the wheel.

uv run python -m training        # collects, trains, saves to outputs/training/; see README.md beside this file
"""
