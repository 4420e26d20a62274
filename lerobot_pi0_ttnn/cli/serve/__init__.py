"""Policy servers: LeRobot's, and openpi's. Imported on use: LeRobot's modules make a `logs` folder on import."""
