"""The console script `lerobot-pi0-ttnn`: a module or a folder for each subcommand, with a `register` and a `run`.

Exit status: 0, done; 1, it cannot be done, and standard error says why and what to do; 2, the command line is wrong.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from . import convert, demo, info, plot
from .bench import command as bench_command
from .doctor import command as doctor_command
from .serve import command as serve_command
from .verify import command as verify_command

SUBCOMMANDS = {
    "demo": demo,
    "convert": convert,
    "info": info,
    "plot": plot,
    "bench": bench_command,
    "serve": serve_command,
    "doctor": doctor_command,
    "verify": verify_command,
}
"""The module of each, by name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status of one run of the console script.

    Args:
        arguments: the command line without the program's name; `sys.argv` by default.
    """
    parser = argparse.ArgumentParser(
        prog="lerobot-pi0-ttnn", description="pi0 and pi0.5 on Tenstorrent cards, as LeRobot policies."
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for subcommand in SUBCOMMANDS.values():
        subcommand.register(subparsers)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        status: int = options.run(options)
    except (ValueError, OSError, KeyError, NotImplementedError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"error: {message}", file=sys.stderr)
        return 1
    return status
