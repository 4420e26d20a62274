"""The subcommand `verify`: whether a board computes what a checkpoint means, always the same, and how fast."""
