"""What README and docs measure, predict and count: each module prints a table of theirs."""
