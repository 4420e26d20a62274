"""What a model asks of a board: parts, memory, operations by stage, transfers. On an emulated board, from shapes alone."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..device.board import Board
from ..device.executor import PI0ModelTTNN
from ..model.config import PI0ModelConfig
from ..model.flow import schedule
from ..model.sampling import denoise
from ..model.tensors import EXPERT, Shapes, expected_shapes, shapes_of
from .graph import DeviceOperation, captured, summary
from .markdown import markdown_table

NEEDED_ON_THE_HOST = re.compile(rf"state_|action_|time_|{re.escape(EXPERT)}\..*\.dense\.|{re.escape(EXPERT)}\.norm\.")
"""Names of weights that the host computes with before anything goes up: their values are read even where only shapes count."""


NEW_PROMPT = "new prompt"
STEP = "denoising step"
EXPERT_LAYER = "of which an expert layer"


@dataclass(frozen=True)
class Stage:
    """What a stage of a call asked of the board: its device operations in order, and what crossed to and from the host."""

    operations: list[DeviceOperation]
    uploads: int
    upload_bytes: int
    readbacks: int

    def summary(self) -> dict[str, Any]:
        """Returns the stage as JSON values, its operations as `graph.summary` has them."""
        return {
            "operations": summary(self.operations),
            "uploads": self.uploads,
            "upload_bytes": self.upload_bytes,
            "readbacks": self.readbacks,
        }


class ShapesOnly(Mapping[str, Tensor]):
    """Weights without values: as large as the checkpoint's, and read from it only where the host needs the numbers.

    Args:
        weights: the checkpoint's.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self._shapes = shapes_of(weights)

    def __getitem__(self, name: str) -> Tensor:
        if NEEDED_ON_THE_HOST.match(name):
            return self._weights[name]
        return torch.empty(self._shapes[name], device="meta")

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def shapes(self) -> Shapes:
        """Returns the shape of each tensor by name."""
        return self._shapes


def made_up_weights(config: PI0ModelConfig) -> dict[str, Tensor]:
    """Returns weights for a walk without a checkpoint: zeros where values are read, shapes alone everywhere else."""
    return {
        name: torch.zeros(shape, device="cpu" if NEEDED_ON_THE_HOST.match(name) else "meta")
        for name, shape in expected_shapes(config).items()
    }


def walk(
    config: PI0ModelConfig, weights: Mapping[str, Tensor], board: Board, *, precision: str, cameras: int, tokens: int
) -> dict[str, Any]:
    """Returns what the model is and needs on an emulated board, having had ttnn validate and allocate every op of a call.

    Args:
        config: sizes of the model.
        weights: the checkpoint's; hardly any of them are read.
        board: an emulated one.
        precision: see `tt/precision.py`.
        cameras: present ones.
        tokens: of the prompt.

    Raises:
        RuntimeError: ttnn's own, where an op is not legal on the board, or memory does not suffice.
    """
    with board.lock, board.shapes_only():
        model = PI0ModelTTNN(config, ShapesOnly(weights), board.device, precision=precision)
        stages = operations_by_stage(model, board, cameras=cameras, tokens=tokens)
        summaries = {name: stage.summary() for name, stage in stages.items()}
        return {"board": board.describe(), "model": model.describe(), "stages": summaries}


def dispatched(
    config: PI0ModelConfig, weights: Mapping[str, Tensor], board: Board, *, precision: str, cameras: int, tokens: int
) -> dict[str, Stage]:
    """Returns what `operations_by_stage` does, on an emulated board and from shapes alone; the arguments are `walk`'s."""
    with board.lock, board.shapes_only():
        model = PI0ModelTTNN(config, ShapesOnly(weights), board.device, precision=precision)
        return operations_by_stage(model, board, cameras=cameras, tokens=tokens)


def operations_by_stage(
    model: PI0ModelTTNN, board: Board, *, cameras: int, tokens: int, rows: int = 1
) -> dict[str, Stage]:
    """Returns for each stage of a call, as run on made-up rows in one pass, its device operations, uploads and readbacks.

    A layer of the expert, part of each denoising step, is added; what only the first call with a prompt does comes first.

    Args:
        model: on the board.
        board: any kind.
        cameras: present ones.
        tokens: of the prompt.
        rows: of the batch.
    """
    config, chip = model.config, model.chips[0]
    graph = chip.graph
    size = config.vision.image_size
    images = [torch.zeros(3, size, size) for _ in range(rows * cameras)]
    noise = torch.zeros(rows, config.horizon, config.action_dim)
    times = schedule(1)
    steps = chip.steps(times)
    stages: dict[str, Stage] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        with board.record() as counts, captured() as graph:
            yield
        stages[name] = Stage(graph.operations, counts.uploads.count, counts.uploads.bytes, counts.readbacks.count)

    prompt = [torch.ones(tokens, dtype=torch.long)] * rows
    chip.contexts.load(cameras, [torch.zeros(tokens, dtype=torch.long)] * rows)
    with stage(NEW_PROMPT):
        context = chip.contexts.load(cameras, prompt)
    with stage("upload"):
        inputs = chip.make_inputs(images, prompt, torch.zeros(rows, config.state_dim), noise).on(chip.device)
    with stage("vision and language"):
        if inputs.prompt is not None:
            context = graph.backbone.read_prompt(inputs.prompt, context)
        embeddings = graph.embed_prefix(inputs, context)
    with stage("prefill"):
        prefix = graph.prefill(embeddings, inputs, context)
    with stage(STEP):
        denoise(graph, prefix, inputs.noise, steps, times)
    suffix = graph.suffix_embedding.embed_suffix(inputs.noise, steps[0].time_bias, prefix.state, prefix.is_action)
    with stage(EXPERT_LAYER):
        modulations = steps[0].modulations.layers[:1] if steps[0].modulations else ()
        graph.backbone.expert_layers[0](suffix, context.blocks[-1], context.caches[0], *modulations)
    return stages


def total(stage: Mapping[str, Any], what: str) -> int:
    """Returns the `count`, `bytes_in` or `bytes_out` of all operations of a stage."""
    return sum(row[what] for row in stage["operations"].values())


def graph_table(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the stages of a `walk` as a Markdown table: operations by name and stage, then their bytes."""
    names = sorted({name for stage in stages.values() for name in stage["operations"]})
    columns = {stage: report for stage, report in stages.items() if report["operations"]}
    rows = []
    for name in names:
        counts = (report["operations"].get(name, {"count": 0})["count"] for report in columns.values())
        rows.append([name, *(str(count or "") for count in counts)])
    rows.append(["**all**", *(f"**{total(report, 'count')}**" for report in columns.values())])
    for title, what in (("tensors in, MB", "bytes_in"), ("tensors out, MB", "bytes_out")):
        rows.append([title, *(f"{total(report, what) / 1e6:.2f}" for report in columns.values())])
    return markdown_table(["device operations", *columns], rows)
