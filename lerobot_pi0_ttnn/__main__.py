"""`python -m lerobot_pi0_ttnn` is the console script `lerobot-pi0-ttnn`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
