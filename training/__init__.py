"""How the small learned checkpoint was made: demonstrations, LeRobot's own `PI0Policy` and its own loss. Not in the wheel.

uv run python -m training        # collects, trains, saves to outputs/training/; see README.md beside this file
"""
