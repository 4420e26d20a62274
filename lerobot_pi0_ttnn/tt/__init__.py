"""pi0 on Tenstorrent boards. With `lerobot_pi0_ttnn.emulation`, the only package that imports ttnn."""
