"""LeRobot's async policy server with this policy. Its modules are imported on use: LeRobot's make a `logs` folder on import."""
