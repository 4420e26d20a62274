"""`lerobot-pi0-ttnn serve`: a policy server, for a robot whose card is in another machine.

By default LeRobot's async one. It takes the flags of `python -m lerobot.async_inference.policy_server`, and
`--policy.FIELD=VALUE` for each field of the policy's config that is to differ from the checkpoint's. The robot's end, LeRobot's
`robot_client`, names the checkpoint.

With `--protocol openpi` openpi's websocket server: see `serve --protocol openpi --help`.
"""

import argparse
import logging
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import draccus
from draccus.utils import DecodingError

from ...configuration_pi0_ttnn import PI0TTNNConfig
from .address import is_loopback

logger = logging.getLogger(__name__)

PROTOCOLS = ("lerobot", "openpi")
WORKERS = 4  # as many as LeRobot's


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    # Without a prefix character argparse leaves all flags to draccus, as LeRobot's scripts do.
    parser = subparsers.add_parser(
        "serve",
        help="LeRobot's async policy server, or openpi's",
        description=__doc__,
        prefix_chars="\0",
        add_help=False,
    )
    parser.add_argument("flags", nargs=argparse.REMAINDER)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serves until it gets SIGINT (Ctrl-C) or SIGTERM; then gives the board back."""
    protocol, flags = read_protocol(options.flags)
    if protocol == "openpi":
        from .openpi import command

        return command.run(flags)
    config, policy_overrides = parse_flags(flags)
    import grpc
    from lerobot.transport import services_pb2_grpc
    from lerobot.utils.process import ProcessSignalHandler

    from .policy_server import PI0TTNNPolicyServer

    stopped = ProcessSignalHandler(use_threads=True).shutdown_event
    servicer = PI0TTNNPolicyServer(config, policy_overrides)
    address = f"{config.host}:{config.port}"
    # Linux lets two servers share a port, which then get every other client each.
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=WORKERS), options=[("grpc.so_reuseport", 0)])
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(servicer, server)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(
            f"{address}: cannot listen there ({error}); is another server running? See --host, --port."
        ) from error
    if not is_loopback(config.host):
        logger.warning(
            "%s: whoever reaches this port can run programs as this user, since LeRobot's protocol is unauthenticated "
            "pickle. Leave --host out and tunnel the port through ssh, unless you trust the whole network.",
            address,
        )
    server.start()
    logger.info("Serving pi0_ttnn on %s; stop it with Ctrl-C.", address)
    stopped.wait()
    servicer.stop()
    server.stop(grace=None).wait()
    servicer.close()
    return 0


def read_protocol(flags: list[str]) -> tuple[str, list[str]]:
    """Returns the protocol that the flags name, LeRobot's where none, and the other flags.

    Raises:
        SystemExit: there is no such protocol.
    """
    parser = argparse.ArgumentParser(prog="lerobot-pi0-ttnn serve", add_help=False, allow_abbrev=False)
    parser.add_argument("--protocol", choices=PROTOCOLS, default=PROTOCOLS[0])
    known, others = parser.parse_known_args(flags)
    return known.protocol, others


def parse_flags(flags: list[str]) -> tuple[Any, list[str]]:
    """Returns LeRobot's server config, and `--field=value` for each field of the policy that the user set.

    Raises:
        SystemExit: a flag that is not there.
        ValueError: a value that cannot be.
    """
    from lerobot.async_inference.configs import PolicyServerConfig
    from lerobot.configs import parser

    @dataclass
    class ServeConfig(PolicyServerConfig):
        policy: PI0TTNNConfig = field(default_factory=PI0TTNNConfig)

    overrides = parser.get_cli_overrides("policy", flags) or []
    try:
        config = draccus.parse(ServeConfig, args=flags, prog="lerobot-pi0-ttnn serve")
        policy = draccus.parse(PI0TTNNConfig, args=overrides)
    except draccus.ParsingError as error:
        raise ValueError(error if isinstance(error, DecodingError) else error.__cause__) from error
    if policy != config.policy:
        raise ValueError("the policy's fields are taken from --policy.FIELD=VALUE only, not from a file.")
    return config, overrides
