"""What the tests of the learned checkpoint play: one scene for a process, because two draw each other's meshes."""

TASK = "faucet-close-v3"
OTHER_PROMPT = "Rotate the faucet counter-clockwise"
"""Of faucet-open-v3, whose scene is the same."""
