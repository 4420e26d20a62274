"""The MetaWorld tasks that the checkpoint is trained for, and what a control takes away from each."""

TASKS = (
    "button-press-topdown-v3",
    "coffee-button-v3",
    "faucet-open-v3",
    "faucet-close-v3",
    "window-open-v3",
    "window-close-v3",
)

OPPOSITE = {
    "faucet-open-v3": "faucet-close-v3",
    "faucet-close-v3": "faucet-open-v3",
    "window-open-v3": "window-close-v3",
    "window-close-v3": "window-open-v3",
}
"""Two tasks with one thing: what is wanted of the faucet the prompt alone says, the window starts shut or open."""

MAX_STEPS = 160
"""Of an episode. The scripted experts need 33 to 115; LeRobot's environment stops after 500."""
