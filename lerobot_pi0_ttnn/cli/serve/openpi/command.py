"""`lerobot-pi0-ttnn serve --protocol openpi CKPT`: openpi's websocket policy server, for clients of `openpi_client`.

One checkpoint, loaded before the first client comes; the checkpoint's own processors normalise states and make actions the
robot's again. `--policy.FIELD=VALUE` sets a field of the policy's config, as everywhere.
"""

import argparse
import logging
import socket
from typing import TYPE_CHECKING, Any

from ..address import bind, is_loopback
from .embodiments import LEROBOT, NAMED, ROBOARENA, Embodiment, own_keys

if TYPE_CHECKING:
    from .layout import Layout

logger = logging.getLogger(__name__)

HOST, PORT = "localhost", 8000
ACTION_SPACES = ("joint_position", "joint_velocity")
"""RoboArena's, of those that have DROID's eight actions."""
OVERRIDE = "--policy."


def parse_flags(flags: list[str]) -> argparse.Namespace:
    """Returns the options; `overrides` has `--field=value` for each field of the policy that the user set.

    Raises:
        SystemExit: a flag that is not there, or a value that cannot be.
    """
    own, overrides = split_overrides(flags)
    parser = argparse.ArgumentParser(
        prog="lerobot-pi0-ttnn serve --protocol openpi",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", help="a folder, or owner/name on the Hub")
    parser.add_argument(
        "--embodiment",
        choices=(*NAMED, LEROBOT),
        default=LEROBOT,
        help=f"whose keys the clients send (default: {LEROBOT}, the checkpoint's own)",
    )
    parser.add_argument("--host", default=HOST, help=f"default: {HOST}, this machine only")
    parser.add_argument("--port", type=_port, default=PORT, help=f"default: {PORT}; 0: any that is free")
    parser.add_argument("--horizon", type=int, help="actions of each chunk that are sent (default: all)")
    parser.add_argument("--default-prompt", help="the task, for clients that send none")
    parser.add_argument("--api-key", type=_key, help="what clients must give as their api_key (default: nothing)")
    parser.add_argument(
        "--reset-pose",
        type=float,
        nargs="+",
        metavar="RADIANS",
        help="of each arm's joints, for ALOHA's client, which moves there first (default: the client's own)",
    )
    parser.add_argument(
        "--roboarena",
        choices=ACTION_SPACES,
        metavar="ACTION_SPACE",
        help=f"speak RoboArena's variant, for a checkpoint of these actions: {', '.join(ACTION_SPACES)}",
    )
    options = parser.parse_args(own)
    if options.roboarena and options.embodiment not in (LEROBOT, "droid"):
        parser.error(f"--roboarena: its clients are DROIDs, not --embodiment {options.embodiment}")
    options.overrides = overrides
    return options


def split_overrides(flags: list[str]) -> tuple[list[str], list[str]]:
    """Returns the flags without those of the policy, and those of the policy without `policy.`."""
    own: list[str] = []
    overrides: list[str] = []
    rest = iter(flags)
    for flag in rest:
        if not flag.startswith(OVERRIDE):
            own.append(flag)
        elif "=" in flag:
            overrides.append(f"--{flag.removeprefix(OVERRIDE)}")
        else:
            overrides += [f"--{flag.removeprefix(OVERRIDE)}", *(value for value in [next(rest, None)] if value)]
    return own, overrides


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, got {port}")
    return port


def _key(text: str) -> str:
    if not text or not text.isascii() or not text.isprintable():
        raise argparse.ArgumentTypeError("expected printable ASCII: it is sent as an HTTP header")
    return text


def run(flags: list[str]) -> int:
    """Serves until it gets SIGINT (Ctrl-C) or SIGTERM; then gives the board back."""
    options = parse_flags(flags)
    logging.getLogger(__package__).setLevel(logging.INFO)
    with bind(options.host, options.port) as listening:
        return _serve(options, listening)


def _serve(options: argparse.Namespace, listening: socket.socket) -> int:
    from lerobot.utils.process import ProcessSignalHandler

    from .layout import match_layout
    from .served import ServedPolicy, read_checkpoint
    from .server import OpenPIServer

    checkpoint = read_checkpoint(options.checkpoint, options.overrides)
    config = checkpoint.config
    embodiment = _embodiment(options, config)
    layout = match_layout(embodiment, config, checkpoint.processors, str(checkpoint.source), options.default_prompt)
    horizon = config.chunk_size if options.horizon is None else options.horizon
    if not 1 <= horizon <= config.chunk_size:
        raise ValueError(
            f"--horizon: expected 1 to {config.chunk_size}, the checkpoint's chunk_size, got {options.horizon}."
        )
    notes = notes_of(layout, horizon)
    logger.info("%s: %s", checkpoint.source, layout)
    for note in notes:
        logger.warning("%s: %s", checkpoint.source, note)
    where = f"{options.host}:{listening.getsockname()[1]}"
    if not is_loopback(options.host):
        logger.warning(
            "%s: whoever reaches this port%s can have actions computed, and what is sent is not encrypted. Leave --host out "
            "and tunnel the port through ssh, unless you trust the whole network.",
            where,
            " and has the key" if options.api_key else "",
        )
    if options.roboarena:
        metadata = roboarena_metadata(layout, options.roboarena, config.image_resolution)
    else:
        metadata = {
            "embodiment": embodiment.name,
            "action_horizon": horizon,
            "action_dim": config.action_feature.shape[0],
            "warnings": [*checkpoint.warnings, *notes],
            **({"reset_pose": options.reset_pose} if options.reset_pose else {}),
        }
    served = ServedPolicy.load(checkpoint, horizon)
    try:
        stopped = ProcessSignalHandler(use_threads=True).shutdown_event
        server = OpenPIServer(
            served, layout, metadata, api_key=options.api_key, takes_resets=options.roboarena is not None
        )
        listening.listen()
        server.start(listening)
        try:
            logger.info("Serving %s by openpi's protocol on %s; stop it with Ctrl-C.", served.policy.name, where)
            stopped.wait()
        finally:
            server.stop()
    finally:
        served.close()
    logger.info("Stopped.")
    return 0


def notes_of(layout: "Layout", horizon: int) -> list[str]:
    """Returns what should be known before the robot moves, which is not that the checkpoint is wrong.

    Args:
        layout: of the clients' observations.
        horizon: how many actions a client is sent.
    """
    wanted, name = layout.embodiment.horizon, layout.embodiment.name
    if wanted in (None, horizon):
        return list(layout.notes)
    return [
        *layout.notes,
        f"openpi's {name} script insists on chunks of {wanted} actions, these have {horizon}: --horizon",
    ]


def roboarena_metadata(layout: "Layout", action_space: str, resolution: tuple[int, int]) -> dict[str, Any]:
    """Returns what RoboArena's client must be told, and nothing else. Source: roboarena `PolicyServerConfig` (6fa329f).

    Args:
        layout: of the clients' observations.
        action_space: one of `ACTION_SPACES`.
        resolution: height and width to which the client is to fit its pictures.
    """
    exterior = sum("exterior" in key for key in layout.names)
    return {
        "image_resolution": resolution,
        "needs_wrist_camera": exterior < len(layout.names),
        "n_external_cameras": exterior,
        "needs_stereo_camera": False,
        "needs_session_id": False,
        "action_space": action_space,
    }


def _embodiment(options: argparse.Namespace, config: Any) -> Embodiment:
    if options.roboarena:
        return ROBOARENA
    return own_keys(config, list(config.camera_aliases)) if options.embodiment == LEROBOT else NAMED[options.embodiment]
