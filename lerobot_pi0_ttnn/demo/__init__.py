"""What the demo runs: small checkpoints that were trained for MetaWorld, and stand-ins, made on disk, for the rest."""

from pathlib import Path

LEARNED_CHECKPOINT = Path(__file__).parent / "pi0_metaworld"
"""A LeRobot checkpoint of `type: pi0`; its README.md says how it was made and what it can do."""
LEARNED_CHECKPOINTS = {"pi0": LEARNED_CHECKPOINT, "pi05": Path(__file__).parent / "pi05_metaworld"}
"""By model."""
