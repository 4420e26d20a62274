"""What `lerobot-pi0-ttnn doctor` looks for. A check is a function of what was found, so that tests can make a machine up."""
