"""How the small learned checkpoints were made: demonstrations, LeRobot's own `PI0Policy` and `PI05Policy`, their own loss. Not in the wheel.

uv run python -m training        # collects, trains, saves to outputs/training/; see README.md beside this file
"""
