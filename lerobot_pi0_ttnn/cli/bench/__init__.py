"""`lerobot-pi0-ttnn bench`: how long a chunk takes, and how long it should take."""
