"""What the demo runs: a small checkpoint that was trained for MetaWorld, and stand-ins, made on disk, for the rest."""

from pathlib import Path

LEARNED_CHECKPOINT = Path(__file__).parent / "pi0_metaworld"
"""A LeRobot checkpoint of `type: pi0`; its README.md says how it was made and what it can do."""
LEARNED_CHECKPOINTS = {"pi0": LEARNED_CHECKPOINT}
"""By model; there is none of pi0.5 yet."""
