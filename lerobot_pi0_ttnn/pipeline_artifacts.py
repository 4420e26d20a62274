"""Checkpoints that carry their tokenizer, for LeRobot 0.6, whose pipelines do not know the folder that they are loaded from.

LeRobot's main after 0.6.1 saves the tokenizer in the checkpoint and names it relatively, as one of the step's `artifacts`.
Every script loads its processors through `DataProcessorPipeline`, so this is where such names are resolved: for a folder,
for a Hub checkpoint, and for all of LeRobot's policies alike. A pipeline loaded from such a checkpoint is saved as one.
"""

import copy
import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lerobot.processor import TokenizerProcessorStep
from lerobot.processor.pipeline import DataProcessorPipeline

from .checkpoint.files import CheckpointSource
from .checkpoint.tokenizer import (
    ARGUMENT,
    FOLDER,
    TOKENIZER_STEP,
    find_tokenizer,
    inspect_tokenizer,
    name_tokenizer,
    save_tokenizer,
)

OWN = "_is_checkpoints_own"


def install() -> None:
    """Lets LeRobot's pipelines find a tokenizer that a checkpoint carries; once is enough."""
    build = DataProcessorPipeline._build_steps_with_overrides.__func__
    if hasattr(build, "__wrapped__"):
        return
    DataProcessorPipeline._build_steps_with_overrides = classmethod(_resolving(build))
    if not hasattr(TokenizerProcessorStep, "save_artifacts"):
        DataProcessorPipeline._save_pretrained = _saving(DataProcessorPipeline._save_pretrained)


def mark_own(step: TokenizerProcessorStep) -> None:
    """Lets the pipeline of this step, when it is saved, take the tokenizer along."""
    setattr(step, OWN, True)


def _resolving(build: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(build)  # main's has an argument more

    @functools.wraps(build)
    def resolve_and_build(*given: Any, **named: Any) -> Any:
        call = signature.bind(*given, **named)
        arguments = call.arguments
        arguments["loaded_config"] = copy.deepcopy(arguments["loaded_config"])
        arguments["overrides"] = {step: dict(settings) for step, settings in arguments["overrides"].items()}
        hub = arguments["hub_download_kwargs"]
        source = CheckpointSource(
            arguments["model_id"],
            revision=hub.get("revision"),
            token=hub.get("token"),
            cache_dir=hub.get("cache_dir"),
            local_files_only=bool(hub.get("local_files_only")),
            force_download=bool(hub.get("force_download")),
        )
        own = [
            _resolve(step, arguments["overrides"].get(TOKENIZER_STEP, {}), arguments["base_path"], source)
            for step in arguments["loaded_config"]["steps"]
        ]
        try:
            steps, unused = build(*call.args, **call.kwargs)
        except ValueError as error:
            _explain(arguments["loaded_config"]["steps"], arguments["overrides"], source, error)
            raise
        for step, is_own in zip(steps, own, strict=True):
            if is_own:
                mark_own(step)
        return steps, unused

    return resolve_and_build


def _resolve(saved: dict[str, Any], overrides: dict[str, Any], folder: Path | None, source: CheckpointSource) -> bool:
    """Puts what transformers is to load in the place of a saved step's tokenizer; returns whether it is an artifact."""
    if saved.get("registry_name") != TOKENIZER_STEP or overrides.get("tokenizer") is not None:
        return False
    if ARGUMENT in overrides:
        saved.get("artifacts", {}).pop(ARGUMENT, None)  # main resolves these before it looks at overrides
    settings = overrides if ARGUMENT in overrides else saved.setdefault("config", {})
    artifact = saved.get("artifacts", {}).get(ARGUMENT) if settings is not overrides else None
    name = settings.get(ARGUMENT) if artifact is None else artifact
    if isinstance(name, str):
        settings[ARGUMENT] = find_tokenizer(name, folder, artifact_of=None if artifact is None else source)
    return artifact is not None


def _explain(
    steps: list[dict[str, Any]], overrides: dict[str, Any], source: CheckpointSource, error: ValueError
) -> None:
    """Raises ValueError with the fix where it is the tokenizer that does not load."""
    for step in steps:
        name = (step.get("config", {}) | overrides.get(TOKENIZER_STEP, {})).get(ARGUMENT)
        if step.get("registry_name") == TOKENIZER_STEP and isinstance(name, str):
            state = inspect_tokenizer(name)
            if state.problem and not state.is_here:
                raise ValueError(f"{source}: tokenizer: {state.problem}; {state.fix}.") from error


def _saving(save: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(save)
    def save_with_tokenizer(pipeline: Any, save_directory: Path, **named: Any) -> None:
        filename = named.get("config_filename") or f"{pipeline._get_sanitized_name()}.json"
        save(pipeline, save_directory, **named)
        own = [getattr(step, OWN, False) for step in pipeline.steps]
        if not any(own):
            return
        path = Path(save_directory) / filename
        saved = json.loads(path.read_text())
        for step, entry, is_own in zip(pipeline.steps, saved["steps"], own, strict=True):
            if is_own:
                save_tokenizer(step.tokenizer_name, Path(save_directory))
                name_tokenizer(entry, FOLDER)
        path.write_text(json.dumps(saved, indent=2))

    return save_with_tokenizer
