"""`lerobot-pi0-ttnn bench CKPT`: how long a chunk takes, on the torch backend and on a Tenstorrent card, side by side.

Times a policy as LeRobot calls it, from the batch that the preprocessor hands over to the chunk of actions, on made-up
observations: no tokenizer is needed. Prints a Markdown table to paste into an issue, and as its last line JSON. Emulated and
simulated boards are run, but not timed: their actions are compared, and nothing is said of milliseconds.

With --predict or --graph nothing is run: an emulated board (--board p150) says what it would be asked to do, and a model how
long that should take. Neither needs a checkpoint.
"""

import argparse
import gc
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...checkpoint.files import CheckpointSource
from ...config_loading import MODELS, load_config
from ...configuration_pi0_ttnn import BACKENDS, PRECISIONS, PI0TTNNConfig
from ...latency_report import TOTAL
from ..doctor.card import CLOCK_MHZ, read_cards
from ..hub import add_checkpoint_options, checkpoint_source
from . import predict
from .report import as_text, draw

if TYPE_CHECKING:
    from ...modeling_pi0_ttnn import PI0TTNNPolicy

SYS = Path("/sys")


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "bench",
        help="how long a chunk takes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_checkpoint_options(parser, "checkpoint", optional=True)
    parser.add_argument(
        "--predict", action="store_true", help="predict the latency on an emulated board; nothing is timed"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="for --predict: what `verify --report` measured on a card (calibration.json)",
    )
    parser.add_argument("--graph", action="store_true", help="list what an emulated board would be asked to do")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=["torch", "ttnn"], help="default: both")
    parser.add_argument("--board", default="auto", help="of the ttnn backend (default: auto)")
    parser.add_argument("--precision", choices=PRECISIONS, help="of the ttnn backend (default: the checkpoint's)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of the torch backend (default: the checkpoint's)"
    )
    parser.add_argument("--chunks", type=positive, default=20, help="timed calls for each backend (default: 20)")
    parser.add_argument("--cameras", type=positive, help="how many of the policy's are present (default: all)")
    parser.add_argument("--batch", type=positive, default=1, help="observations at a time (default: 1)")
    parser.add_argument(
        "--tokens", type=positive, help="of the prompt (default: 12; of pi0.5, with the state in it, more)"
    )
    parser.add_argument(
        "--model", choices=MODELS, help="for --predict and --graph without a checkpoint (default: pi0_base's sizes)"
    )
    parser.add_argument("--steps", type=positive, help="Euler steps (default: the checkpoint's)")
    parser.add_argument("--fps", type=_rate, default=30.0, help="of the robot that the policy drives (default: 30)")
    parser.add_argument("--plot", type=Path, help="draw where the time goes into this picture")
    parser.set_defaults(run=run)


def positive(text: str) -> int:
    """Returns a positive number of the command line, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {value}")
    return value


def run(options: argparse.Namespace) -> int:
    """Prints the table and the JSON line."""
    if options.calibration and not options.predict:
        raise ValueError("--calibration: for --predict.")
    if options.predict or options.graph:
        return predict.run(options)
    if options.model:
        raise ValueError("--model: for --predict and --graph; a checkpoint says itself what it is of.")
    if options.checkpoint is None:
        raise ValueError("a checkpoint is missing: only --predict and --graph do without one.")
    result = bench(options)
    print(as_text(result))
    if options.plot:
        draw(result, options.plot)
        print(options.plot)
    print(json.dumps(result))
    return 0


def bench(options: argparse.Namespace) -> dict[str, Any]:
    """Returns what was measured, as JSON values: for each backend its policy's `latency()`, and how the two compare.

    Raises:
        ValueError: the checkpoint has fewer cameras, or shorter prompts, than were asked for.
        FileNotFoundError, ImportError: there is no such checkpoint or board, or ttnn is not installed.
    """
    source = checkpoint_source(options, "checkpoint")
    config = load_config(source)
    cameras = len(config.image_features) if options.cameras is None else options.cameras
    tokens = options.tokens or predict.usual_tokens(config)
    for name, got, most in (
        ("cameras", cameras, len(config.image_features)),
        ("tokens", tokens, config.tokenizer_max_length),
    ):
        if got > most:
            raise ValueError(f"--{name}: expected at most {most}, which is what {source} takes, got {got}")
    batch = make_batch(config, rows=options.batch, cameras=cameras, tokens=tokens)
    noise = torch.randn(
        options.batch, config.chunk_size, config.max_action_dim, generator=torch.Generator().manual_seed(0)
    )
    result: dict[str, Any] = {
        "checkpoint": str(source),
        "cameras": cameras,
        "camera_slots": len(config.image_features),
        "tokens": tokens,
        "batch": options.batch,
        "chunk_size": config.chunk_size,
        "n_action_steps": config.n_action_steps,
        "fps": options.fps,
        "control_period_ms": 1e3 / options.fps,
        "backends": {},
    }
    actions = {}
    for backend in dict.fromkeys(options.backends):
        report, actions[backend] = measure(options, source, backend, batch, noise)
        result["backends"][backend] = report
    if len(actions) == len(BACKENDS):
        result["pcc"] = _correlation(actions["torch"], actions["ttnn"])
        result["speedup"] = _speedup(result["backends"])
    return result


def make_batch(config: PI0TTNNConfig, *, rows: int = 1, cameras: int, tokens: int) -> dict[str, Tensor]:
    """Returns made-up observations as LeRobot's preprocessor hands them over, always the same.

    Args:
        config: says of what size.
        rows: how many.
        cameras: the first so many are present.
        tokens: of the prompt.
    """
    generator = torch.Generator().manual_seed(0)
    features = list(config.image_features.items())[:cameras]
    batch = {name: torch.rand(rows, *feature.shape, generator=generator) for name, feature in features}
    state = config.robot_state_feature
    batch["observation.state"] = torch.randn(rows, state.shape[0] if state else 1, generator=generator)
    ids = torch.zeros(rows, config.tokenizer_max_length, dtype=torch.long)
    ids[:, :tokens] = torch.randint(3, config.model_config().vocab_size, (rows, tokens), generator=generator)
    mask = (torch.arange(config.tokenizer_max_length)[None] < tokens).expand(rows, -1)
    return batch | {"observation.language.tokens": ids, "observation.language.attention_mask": mask}


def measure(
    options: argparse.Namespace, source: CheckpointSource, backend: str, batch: dict[str, Tensor], noise: Tensor
) -> tuple[dict[str, Any], Tensor]:
    """Returns the latency report of one backend, with the seconds until it was ready; and the chunk it computed."""
    from ...policy_loading import load_policy

    overrides: dict[str, Any] = {"backend": backend, "board": options.board, "rtc_config": None, "recording_path": None}
    chosen = {
        "base_model": options.base_model,
        "precision": options.precision,
        "dtype": options.dtype,
        "num_inference_steps": options.steps,
    }
    overrides |= {name: value for name, value in chosen.items() if value is not None}
    start = time.perf_counter()
    policy = load_policy(
        source.path_or_repo_id,
        revision=source.revision,
        cache_dir=source.cache_dir,
        local_files_only=source.local_files_only,
        subfolder=source.subfolder,
        **overrides,
    )
    ready = time.perf_counter() - start
    try:
        is_timed = policy.board is None or policy.board.kind == "card"
        report, actions = time_chunks(policy, batch, noise, options.chunks if is_timed else 1)
    finally:
        policy.close()
        # The next backend finds the memory free: a policy refers to itself.
        del policy
        gc.collect()
    return report | {"ready_s": round(ready, 1) if is_timed else None}, actions


def time_chunks(
    policy: "PI0TTNNPolicy", batch: dict[str, Tensor], noise: Tensor, chunks: int
) -> tuple[dict[str, Any], Tensor]:
    """Returns the policy's latency report after so many calls, on a card with its clock and by stage; and the chunk.

    Args:
        policy: that is warm.
        batch: see `predict_action_chunk`.
        noise: of the chunks.
        chunks: calls; on a card so many again, to time the stages.
    """
    is_timed = policy.board is None or policy.board.kind == "card"
    clocks = read_cards(SYS) if policy.board and is_timed else []
    for _ in range(chunks):
        actions = policy.predict_action_chunk(batch, noise=noise)
    report = policy.latency()
    after = {card.address: card.clock for card in read_cards(SYS)} if clocks else {}
    report["clock_mhz"] = {
        str(card): {"before": card.clock, "after": after.get(card.address, ""), "full": CLOCK_MHZ.get(card.arch)}
        for card in clocks
        if card.clock
    }
    if policy.board and is_timed:
        # Waiting for the card after each stage costs a little: the totals above are without it.
        policy.config.time_stages = True
        for _ in range(chunks):
            policy.predict_action_chunk(batch, noise=noise)
        report["milliseconds"] = policy.latency()["milliseconds"] | report["milliseconds"]
    return report, actions


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def _speedup(backends: dict[str, Any]) -> float | None:
    torch_ms, ttnn_ms = (backends[name]["milliseconds"].get(TOTAL) for name in ("torch", "ttnn"))
    return torch_ms["p50"] / ttnn_ms["p50"] if torch_ms and ttnn_ms else None
