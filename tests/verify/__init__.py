"""Tests of `lerobot-pi0-ttnn verify`."""
