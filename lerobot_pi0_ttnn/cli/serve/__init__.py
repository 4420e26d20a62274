"""Policy servers with this policy, LeRobot's and openpi's. Modules are imported on use: LeRobot's make a `logs` folder on import."""
