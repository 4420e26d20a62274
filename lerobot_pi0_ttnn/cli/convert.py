"""`lerobot-pi0-ttnn convert SRC DST`: a checkpoint of pi0 or pi0.5 as a policy folder that plain `lerobot-eval` runs.

Its type becomes `pi0_ttnn` or `pi05_ttnn`. The weights are hard-linked where the file system allows, else copied; a LoRA
adapter is merged into its base model and written as one file. The config is rewritten for this package, without the
fields of other LeRobot releases. Saved processors are kept; where there are none they are made, with the statistics that
LeRobot <= 0.3 kept among the weights. A tokenizer that is on this machine is copied into the folder, which so names nothing
outside itself and can be moved to another machine. Of openpi's converted folder it takes the sizes and the statistics, and
says what openpi keeps elsewhere; whether it is pi0 or pi0.5 the names of its tensors say.
"""

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoint import CheckpointWeights, open_weights
from ..checkpoint.files import CONFIG_FILE, CheckpointSource, open_safetensors
from ..checkpoint.loader import link_or_copy
from ..checkpoint.openpi import ELSEWHERE, lerobot_fields, read_norm_stats
from ..checkpoint.processors import POSTPROCESSOR, PREPROCESSOR
from ..checkpoint.tokenizer import FOLDER, TOKENIZER_STEP, TokenizerState, name_tokenizer, save_tokenizer
from ..config_loading import load_config, parse_config
from ..configuration_pi0_ttnn import PI0TTNNConfig
from ..model.tensors import check_weights
from ..review import review, settle_features
from ..review.tokenizer import checkpoint_tokenizer, other_tokenizer
from ..review.weights import other_model
from .hub import add_checkpoint_options, checkpoint_source

logger = logging.getLogger(__name__)


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "convert", help="a checkpoint to a policy folder of this package", description=__doc__
    )
    add_checkpoint_options(parser, "source")
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument("--tokenizer", help="tokenizer folder or Hub id for the processors (Google's is gated)")
    parser.add_argument(
        "--norm-stats",
        metavar="NAME",
        help="of openpi's: which of its assets, or a norm_stats.json (default: the only one)",
    )
    parser.add_argument(
        "--quantiles",
        action=argparse.BooleanOptionalAction,
        help="of openpi's: trained with use_quantile_norm (default: as in openpi, pi0.5 is and pi0 is not)",
    )
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
    convert(
        checkpoint_source(options, "source"),
        options.target,
        tokenizer=options.tokenizer,
        overrides=overrides,
        norm_stats=options.norm_stats,
        quantiles=options.quantiles,
    )
    target = CheckpointSource(options.target)
    for problem in review(load_config(target), target):
        logger.log(logging.INFO if problem.severity == "note" else logging.WARNING, "%s: %s", target, problem)
    print(options.target)
    return 0


def convert(
    source: CheckpointSource,
    target: Path,
    *,
    tokenizer: str | None,
    overrides: list[str],
    norm_stats: str | None = None,
    quantiles: bool | None = None,
) -> None:
    """Makes the policy folder; it appears whole or not at all.

    Args:
        source: the checkpoint.
        target: the folder to make.
        tokenizer: tokenizer folder or Hub id; the one that the processors name by default.
        overrides: `--field=value` for each field of the config to set.
        norm_stats: of an openpi checkpoint: whose statistics, see `read_norm_stats`.
        quantiles: of an openpi checkpoint: it normalises by quantiles; by default pi0.5's does, pi0's does not.

    Raises:
        FileExistsError: the target exists.
        FileNotFoundError, PermissionError, ConnectionError: the source cannot be loaded.
        ValueError: the source is damaged, or not a complete checkpoint, or its tokenizer will not load.
    """
    if target.exists():
        raise FileExistsError(f"{target}: exists already; name a folder that does not, or remove it.")
    openpis = lerobot_fields(source, quantiles=quantiles)
    if openpis is None and (norm_stats or quantiles is not None):
        raise ValueError(f"--norm-stats, --quantiles: for openpi's checkpoints, and {source} is none.")
    config = parse_config(openpis, f"{source}: {CONFIG_FILE}", overrides) if openpis else load_config(source, overrides)
    loader = open_weights(source, config.base_model)
    config.base_model = None  # what is saved is whole
    if other := other_model(config, loader):
        raise ValueError(f"{source}: {other}")
    check_weights(config.model_config(), loader)
    stats = adopt_norm_stats(source, config, norm_stats) if openpis else None
    state = choose_tokenizer(source, config, tokenizer)
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        if state.is_here and state.place:
            save_tokenizer(state.place, staging)
        if not openpis and source.find(PREPROCESSOR) is not None:
            for name in (PREPROCESSOR, POSTPROCESSOR):
                _convert_processor(source, name, staging, config.tokenizer_name)
        else:
            config.checkpoint = CheckpointSource(staging)
            _make_processors(config, stats or _stats_of_pipeline(source) or _stats_in_weights(loader), staging)
        settle_features(config, CheckpointSource(staging))
        config.save_pretrained(staging)
        loader.save(staging)
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def choose_tokenizer(source: CheckpointSource, config: PI0TTNNConfig, asked: str | None) -> TokenizerState:
    """Returns what is known of the tokenizer that the new checkpoint is to have, and names it in `config`.

    Args:
        source: the checkpoint.
        config: its config; `tokenizer_name` becomes the new checkpoint's own folder where the tokenizer is here, to be copied.
        asked: what the user names; what the checkpoint names by default.

    Raises:
        ValueError: no prompt could be tokenized with it, or it is not here and processors are to be made.
    """
    named = checkpoint_tokenizer(config, source)
    name, state = (asked, other_tokenizer(config, asked)) if asked else (named.name, named.state)
    if state.is_fatal or (state.problem and not state.is_here and not named.by_preprocessor):
        raise ValueError(f"{source}: tokenizer: {state.problem}; {state.fix}.")
    config.tokenizer_name = FOLDER if state.is_here else name
    return state


def _convert_processor(source: CheckpointSource, name: str, target: Path, tokenizer: str) -> None:
    path = source.find(name)
    if path is None:
        raise FileNotFoundError(f"{source}: has {PREPROCESSOR} but no {name}; fetch the whole folder.")
    pipeline = json.loads(path.read_text())
    for step in pipeline["steps"]:
        settings = step.get("config", {})
        if step.get("registry_name") == "device_processor":
            settings["device"] = "cpu"
        if step.get("registry_name") == TOKENIZER_STEP:
            name_tokenizer(step, tokenizer)
        state_file = step.get("state_file")
        if state_file is not None:
            state = source.find(state_file)
            if state is None:
                raise FileNotFoundError(
                    f"{source}: {name} names {state_file}, which is absent; fetch the whole folder."
                )
            link_or_copy(state, target / state_file)
    (target / name).write_text(json.dumps(pipeline, indent=2))


def adopt_norm_stats(
    source: CheckpointSource, config: PI0TTNNConfig, asked: str | None
) -> dict[str, dict[str, Tensor]]:
    """Returns the statistics of an openpi checkpoint, and writes into `config` of how many values state and actions are.

    Raises:
        ValueError: see `read_norm_stats`.
    """
    from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.utils.constants import ACTION, OBS_STATE

    quantiles = config.normalization_mapping["STATE"] is NormalizationMode.QUANTILES
    found = read_norm_stats(source, asked, width=config.max_state_dim, quantiles=quantiles)
    state, action = (len(next(iter(found.stats[feature].values()))) for feature in (OBS_STATE, ACTION))
    config.input_features = {**(config.input_features or {}), OBS_STATE: PolicyFeature(FeatureType.STATE, (state,))}
    config.output_features = {ACTION: PolicyFeature(FeatureType.ACTION, (action,))}
    for saying in (*found.notes, *ELSEWHERE[config.model_name]):
        logger.warning("%s: %s.", found.path, saying)
    return found.stats


def _stats_of_pipeline(source: CheckpointSource) -> dict[str, dict[str, Tensor]]:
    """Returns what the preprocessor of a folder knew, if of it only the tensors are there; LeRobot's main needs no more."""
    folder = Path(source.path_or_repo_id).expanduser() / (source.subfolder or "")
    stats: dict[str, dict[str, Tensor]] = {}
    for path in sorted(folder.glob("policy_preprocessor*normalizer_processor.safetensors")):
        file = open_safetensors(path)
        for key in file.keys():  # noqa: SIM118 - not a dict
            feature, _, statistic = key.rpartition(".")
            stats.setdefault(feature, {})[statistic] = file.get_tensor(key)
    return stats


def _stats_in_weights(loader: CheckpointWeights) -> dict[str, dict[str, Tensor]]:
    from lerobot.processor.migrate_policy_normalization import extract_normalization_stats

    saved = {name: loader.saved(name) for name in loader.layout.ignored}
    # LeRobot <= 0.3 wrote infinity where it had no statistics.
    known = {name: value for name, value in saved.items() if not value.isinf().all()}
    stats: dict[str, dict[str, Tensor]] = extract_normalization_stats(known)
    return stats


def _make_processors(config: PI0TTNNConfig, stats: dict[str, dict[str, Tensor]], target: Path) -> None:
    from lerobot.policies import make_pre_post_processors

    for pipeline in make_pre_post_processors(config, dataset_stats=stats):
        pipeline.save_pretrained(target)
