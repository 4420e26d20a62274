"""`lerobot-pi0-ttnn convert SRC DST`: a pi0 checkpoint as a `pi0_ttnn` policy folder, which plain `lerobot-eval` runs.

The weights are hard-linked where the file system allows, else copied; a LoRA adapter is merged into its base model and written
as one file. The config is rewritten for this package, without the
fields of other LeRobot releases. Saved processors are kept; where there are none they are made, with the statistics that
LeRobot <= 0.3 kept among the weights.
"""

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from ..checkpoint import CheckpointWeights, open_weights
from ..checkpoint.files import CheckpointSource
from ..checkpoint.loader import link_or_copy
from ..checkpoint.processors import POSTPROCESSOR, PREPROCESSOR
from ..configuration_pi0_ttnn import load_config
from ..review import review, settle_features
from ..weights import check_weights
from .hub import add_checkpoint_options, checkpoint_source

logger = logging.getLogger(__name__)


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("convert", help="a pi0 checkpoint to a pi0_ttnn policy folder", description=__doc__)
    add_checkpoint_options(parser, "source")
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument("--tokenizer", help="tokenizer folder or Hub id for the processors (Google's is gated)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="set a field of the config, e.g. backend=torch",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Converts, says what is still wrong with it, and prints the folder."""
    overrides = [f"--{setting}" for setting in options.set]
    if options.base_model:
        overrides.append(f"--base_model={options.base_model}")
    convert(checkpoint_source(options, "source"), options.target, tokenizer=options.tokenizer, overrides=overrides)
    target = CheckpointSource(options.target)
    for problem in review(load_config(target), target):
        logger.log(logging.INFO if problem.severity == "note" else logging.WARNING, "%s: %s", target, problem)
    print(options.target)
    return 0


def convert(source: CheckpointSource, target: Path, *, tokenizer: str | None, overrides: list[str]) -> None:
    """Makes the policy folder; it appears whole or not at all.

    Args:
        source: the pi0 checkpoint.
        target: the folder to make.
        tokenizer: tokenizer folder or Hub id to name in the processors; theirs by default.
        overrides: `--field=value` for each field of the config to set.

    Raises:
        FileExistsError: the target exists.
        FileNotFoundError, PermissionError, ConnectionError: the source cannot be had.
        ValueError: the source is damaged, or not a complete pi0 checkpoint.
    """
    if target.exists():
        raise FileExistsError(f"{target}: exists already; name a folder that does not, or remove it.")
    if tokenizer is not None and Path(tokenizer).expanduser().is_dir():
        tokenizer = str(Path(tokenizer).expanduser().resolve())
    config = load_config(source, overrides)
    loader = open_weights(source, config.base_model)
    config.base_model = None  # what is saved is whole
    if tokenizer is not None:
        config.tokenizer_name = tokenizer
    check_weights(config.model_config(), loader)
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        if source.find(PREPROCESSOR) is not None:
            for name in (PREPROCESSOR, POSTPROCESSOR):
                _convert_processor(source, name, staging, tokenizer)
        else:
            _make_processors(config, loader, staging)
        settle_features(config, CheckpointSource(staging))
        config.save_pretrained(staging)
        loader.save(staging)
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _convert_processor(source: CheckpointSource, name: str, target: Path, tokenizer: str | None) -> None:
    path = source.find(name)
    if path is None:
        raise FileNotFoundError(f"{source}: has {PREPROCESSOR} but no {name}; fetch the whole folder.")
    pipeline = json.loads(path.read_text())
    for step in pipeline["steps"]:
        settings = step.get("config", {})
        if step.get("registry_name") == "device_processor":
            settings["device"] = "cpu"
        if step.get("registry_name") == "tokenizer_processor" and tokenizer is not None:
            settings["tokenizer_name"] = tokenizer
        state_file = step.get("state_file")
        if state_file is not None:
            state = source.find(state_file)
            if state is None:
                raise FileNotFoundError(
                    f"{source}: {name} names {state_file}, which is absent; fetch the whole folder."
                )
            link_or_copy(state, target / state_file)
    (target / name).write_text(json.dumps(pipeline, indent=2))


def _make_processors(config: Any, loader: CheckpointWeights, target: Path) -> None:
    from lerobot.processor.migrate_policy_normalization import extract_normalization_stats

    from ..processor_pi0_ttnn import make_pi0_ttnn_pre_post_processors

    saved = {name: loader.saved(name) for name in loader.layout.ignored}
    # LeRobot <= 0.3 wrote infinity where it had no statistics.
    stats = extract_normalization_stats({name: value for name, value in saved.items() if not value.isinf().all()})
    for pipeline in make_pi0_ttnn_pre_post_processors(config, stats):
        pipeline.save_pretrained(target)
