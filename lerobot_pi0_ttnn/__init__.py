"""pi0 on Tenstorrent cards, as a LeRobot policy."""
