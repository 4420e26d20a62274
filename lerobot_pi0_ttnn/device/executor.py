"""What runs the graph of `tt/model.py`: a batch on one chip or several, eager or traced, from upload to readback."""

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
import ttnn
from torch import Tensor

from ..latency import Stage, untimed
from ..model.config import PI0ModelConfig
from ..model.flow import sample_noise, schedule
from ..model.observation import Observation, blank_calls, takes_parts
from ..model.rtc import Guidance, guidance_of
from ..model.sampling import sample
from ..model.tensors import EXPERT, LANGUAGE_MODEL, PROJECTOR, VISION_TOWER, Weights, check_weights
from ..tt.inputs import Context, Inputs
from ..tt.model import PI0GraphTTNN, Step
from ..tt.paligemma import PaliGemmaBackboneTTNN
from ..tt.precision import preset, table, throttled
from ..tt.program import TILE, round_up
from ..tt.suffix import SuffixEmbeddingTTNN
from ..tt.weights import DeviceWeights
from .trace import Traces
from .uploads import UPLOADS_PER_PROMPT, Contexts, InputMaker, uploads_per_pass
from .weight_cache import WeightCache

MAX_ROWS = 8
"""Rows that a chip computes together at most: from there on reading the weights is a small part of the time."""

SCHEDULES = 2
"""Numbers of steps whose tables are kept: pi0.5's for ten steps take 146 MB."""

PARTS = {
    "vision_tower": VISION_TOWER,
    "multi_modal_projector": PROJECTOR,
    "embed_tokens": f"{LANGUAGE_MODEL}.embed_tokens",
    "vlm_layers": f"{LANGUAGE_MODEL}.layers",
    "expert_layers": f"{EXPERT}.layers",
    "suffix_embedding": "",
}
"""Parts that weights are counted by, and how the names of their tensors begin."""


class Chip:
    """The graph on one chip, with all that it needs there between calls.

    Args:
        graph: on the chip.
        weights: that put it there.
        traces: the chip's; None to run it eager.
    """

    def __init__(self, graph: PI0GraphTTNN, weights: DeviceWeights, traces: Traces | None) -> None:
        self.graph = graph
        self.device = weights.device
        self.programs = weights.programs
        self.uploaded = weights.uploaded
        self.make_inputs = InputMaker(graph.config, graph.backbone.precision)
        self.contexts = Contexts(graph.backbone, traces)
        self.traces = traces
        self._steps: dict[tuple[float, ...], list[Step]] = {}
        # Not the graph itself: a trace is not to keep it alive.
        self._identity = object()

    def steps(self, times: Sequence[float]) -> list[Step]:
        """Returns what `PI0GraphTTNN.steps` does, made once and kept until `SCHEDULES` others have been asked for since."""
        key = tuple(times)
        if key not in self._steps:
            if self.traces is not None:
                self.traces.release()
            while len(self._steps) >= SCHEDULES:
                for step in self._steps.pop(next(iter(self._steps))):
                    for tensor in step.tensors():
                        ttnn.deallocate(tensor)
            self._steps[key] = self.graph.steps(times)
        return self._steps[key]

    def upload(
        self,
        observation: Observation,
        noise: Tensor,
        times: Sequence[float],
        guidance: Guidance[Tensor] | None,
        *,
        eager: bool,
        stage: Stage,
    ) -> "Pass":
        """Returns a pass that is ready to be enqueued.

        Args:
            observation: of rows that have as many cameras each.
            noise: (B, horizon, action_dim) float32.
            times: see `flow.schedule`.
            guidance: of the rows.
            eager: even where a trace could be replayed.
            stage: see `PI0ModelTTNN.sample_actions`.
        """
        traces = None if eager else self.traces
        if traces is None and self.traces is not None:
            self.traces.release()
        steps = self.steps(times)
        with stage("upload"):
            images, tokens = present_images(observation), real_prompts(observation)
            context = self.contexts.load(len(images) // observation.rows, tokens)
            inputs = self.make_inputs(images, tokens, observation.state, noise, guidance)
            if traces is None:
                inputs = inputs.on(self.device)

        key = (len(times), guidance and guidance.max_gain, tuple(block.start for block in context.layout))
        return Pass(self.graph, inputs, context, times, steps, traces, self._identity, key)

    def forget(self) -> None:
        """Frees what is kept of former calls: traces, contexts, prompts, caches. The next call makes them anew."""
        if self.traces is not None:
            self.traces.release()
            self.traces.forget(self._identity)
        for tensor in self.contexts.tensors():
            ttnn.deallocate(tensor)
        self.contexts = Contexts(self.graph.backbone, self.traces)

    def release(self) -> None:
        """Frees all that is on the chip, traces included; it cannot compute any more."""
        if self.traces is not None:
            self.traces.forget(self._identity)
        tables = [tensor for steps in self._steps.values() for step in steps for tensor in step.tensors()]
        for tensor in (*self.uploaded.values(), *self.contexts.tensors(), *tables):
            ttnn.deallocate(tensor)


@dataclass(frozen=True)
class Pass:
    """What a chip computes the chunks of some rows from, together: it reads each weight once for all of them.

    An object, not a closure: `Board.in_use` can clear the locals of the frames that an error has ended, but not what their
    functions close over, and that would then be freed in whatever thread drops the error.

    Attributes:
        graph: of the chip.
        inputs: on the chip; on the host if traced.
        context: on the chip.
        times: see `flow.schedule`.
        steps: what each of them brings.
        traces: the chip's; None to run eager.
        owner: of the trace.
        key: what else than the inputs' shapes the trace depends on.
    """

    graph: PI0GraphTTNN
    inputs: Inputs
    context: Context
    times: Sequence[float]
    steps: Sequence[Step]
    traces: Traces | None
    owner: object
    key: Hashable

    def enqueue(self, stage: Stage) -> ttnn.Tensor:
        """Returns the actions on the chip, shaped like the noise of `Inputs`, maybe before they are computed."""
        if self.traces is None:
            return self._compute(self.inputs, stage)
        return self.traces.run(self.owner, self.key, self.inputs, self._compute, stage)

    def _compute(self, inputs: Inputs, stage: Stage = untimed) -> ttnn.Tensor:
        context, guidance = self.context, inputs.guidance
        if inputs.prompt is not None:
            context = self.graph.backbone.read_prompt(inputs.prompt, context)
        return sample(self.graph, inputs, context, inputs.noise, self.steps, self.times, guidance, stage)


def present_images(observation: Observation) -> list[Tensor]:
    """Returns row by row the images, (3, image_size, image_size), of the cameras that the row has."""
    cameras = list(zip(observation.images, observation.img_masks, strict=True))
    return [image[row] for row in range(observation.rows) for image, mask in cameras if mask[row]]


def real_prompts(observation: Observation) -> list[Tensor]:
    """Returns of each row its tokens without padding, (L,) int64."""
    return [tokens[mask] for tokens, mask in zip(observation.lang_tokens, observation.lang_masks, strict=True)]


def passes(observation: Observation, chips: int) -> list[tuple[int, list[int]]]:
    """Returns which chip computes which rows of a batch together, in the order in which that begins.

    Row i is chip i's, round-robin. Those of its rows that have as many cameras it computes together, in equal parts where they
    are more than `MAX_ROWS`, so that all passes are of one size, or of two.
    """
    of_chips: list[list[list[int]]] = []
    for chip in range(chips):
        by_cameras: dict[int, list[int]] = {}
        for row in range(chip, observation.rows, chips):
            cameras = sum(bool(mask[row]) for mask in observation.img_masks)
            by_cameras.setdefault(cameras, []).append(row)
        of_chips.append([part for rows in by_cameras.values() for part in _equal_parts(rows)])
    turns = zip_longest(*of_chips, fillvalue=None)
    return [(chip, rows) for turn in turns for chip, rows in enumerate(turn) if rows]


def _equal_parts(rows: list[int]) -> list[list[int]]:
    count = -(-len(rows) // MAX_ROWS)
    return [rows[part * len(rows) // count : (part + 1) * len(rows) // count] for part in range(count)]


class PI0ModelTTNN:
    """pi0, or pi0.5 where its config says so, on Tenstorrent chips: the host lays out what goes in, the chips compute the rest.

    Each chip has the whole model, and knows nothing of the others. A batch of one row is computed by the first. In larger ones
    row i is chip i's, round-robin; the chips compute at the same time, each its rows in as few passes as `passes` says.

    Args:
        config: sizes of the model.
        weights: all tensors by name, `PI0WeightLoader` or a plain dict; each converted once and uploaded.
        device: an open ttnn device (a card, a simulator or an emulated board), or one for each chip.
        precision: `accurate`, `balanced` or `fast`, see `tt/precision.py`.
        throttle: of the matmuls, 0 to 5, see there.
        programs: `ours`, or `stock`: no kernel of our own and no program config, see `tt/program.py`.
        cache: where to keep the converted weights of a checkpoint, so that it loads in seconds the next time.
        traces: of each device; without, ops run eager. Whoever shares the device shares them.
        on_take: see `Weights`.

    Attributes:
        chips: The graph on each chip.
        eager: Whether ops run eager even where a trace could be replayed: no stage can be timed inside a trace.

    Raises:
        ValueError: with every missing, unexpected and mis-shaped tensor.
    """

    sample_noise = staticmethod(sample_noise)

    def __init__(
        self,
        config: PI0ModelConfig,
        weights: Mapping[str, Tensor],
        device: ttnn.Device | Sequence[ttnn.Device],
        *,
        precision: str = "balanced",
        throttle: int = 0,
        programs: str = "ours",
        cache: WeightCache | None = None,
        traces: Sequence[Traces] | None = None,
        on_take: Callable[[str], object] | None = None,
    ) -> None:
        devices = list(device) if isinstance(device, Sequence) else [device]
        self.precision = throttled(preset(precision, devices[0].arch()), throttle)
        check_weights(config, weights)
        self.config = config
        self.eager = False
        self.chips: list[Chip] = []
        self._precision_name = precision
        no_traces: list[Traces | None] = [None] * len(devices)
        for each, own in zip(devices, traces or no_traces, strict=True):
            if own is not None:
                own.release()
            first = self.chips[0].uploaded if self.chips else None
            own_cache = cache if first is None else None
            on_device = DeviceWeights(
                Weights(weights, on_take=on_take), each, own_cache, first, stock=programs == "stock"
            )
            self.chips.append(Chip(PI0GraphTTNN(config, on_device, self.precision), on_device, own))
            if cache is not None and first is None:
                cache.commit()

    @property
    def backbone(self) -> PaliGemmaBackboneTTNN:
        """Returns the backbone of the first chip's graph."""
        return self.chips[0].graph.backbone

    @property
    def suffix_embedding(self) -> SuffixEmbeddingTTNN:
        """Returns the suffix of the first chip's graph."""
        return self.chips[0].graph.suffix_embedding

    @takes_parts
    @torch.no_grad()
    def sample_actions(
        self,
        observation: Observation,
        *,
        noise: Tensor | None = None,
        num_steps: int | None = None,
        generator: torch.Generator | None = None,
        guidance: Guidance[Tensor] | None = None,
        stage: Stage = untimed,
    ) -> Tensor:
        """Returns a chunk of actions, (B, horizon, action_dim) float32, in the normalised units of training.

        Args:
            observation: or its five fields, see `Observation`.
            noise: (B, horizon, action_dim) float32; drawn from `generator` by default.
            num_steps: Euler steps; `config.num_steps` by default.
            generator: source of the noise; torch's global one by default.
            guidance: towards the former chunk; none by default.
            stage: in whose contexts the work is done, to time it. One that waits for the board makes chips take turns.
        """
        config, rows = self.config, observation.rows
        times = schedule(config.num_steps if num_steps is None else num_steps)
        if noise is None:
            noise = self.sample_noise((rows, config.horizon, config.action_dim), generator=generator)
        eager = self.eager or self.chips[0].traces is None
        # A trace writes in one place, and a chip is not given a pass while another waits: its former one comes down first.
        takes_turns = len(self.chips) > 1 or not eager
        done: list[Tensor] = []
        running: deque[ttnn.Tensor] = deque()
        order: list[int] = []
        for number, together in passes(observation, len(self.chips)):
            some, chip = observation.select(together), self.chips[number]
            guided_by = guidance_of(guidance, together) if guidance else None
            prepared = chip.upload(some, noise[together], times, guided_by, eager=eager, stage=stage)
            if takes_turns and len(running) == len(self.chips):
                done.append(self._read(running.popleft(), stage))
            running.append(prepared.enqueue(stage))
            order += together
        if not takes_turns and len(running) > 1:
            running = deque([ttnn.concat(list(running), dim=2)])
        chunks = torch.cat([*done, *(self._read(actions, stage) for actions in running)])
        return chunks[torch.tensor(order).argsort()]

    def _read(self, actions: ttnn.Tensor, stage: Stage) -> Tensor:
        with stage("readback"):
            chunks: Tensor = ttnn.to_torch(actions)
        first, end = self.config.state_tokens, self.config.suffix_tokens
        suffixes = chunks.view(-1, round_up(end, TILE), chunks.shape[-1])
        return suffixes[:, first:end, : self.config.action_dim]

    def warm_up_calls(
        self, *, cameras: int, tokens: tuple[int, int], max_gain: float | None
    ) -> list[tuple[Observation, Guidance[Tensor] | None]]:
        """Returns what to call `sample_actions` with, in this order, so that later calls compile and capture nothing.

        One for each set of kernels that rows need; with traces each of them once to compile, and once to capture.

        Args:
            cameras: the most that will be present.
            tokens: of the shortest and of the longest prompt.
            max_gain: of the guidance that will be asked for beside free chunks; None for none.
        """
        shortest, longest = tokens
        prompts = [
            min(length, longest) for length in range(round_up(shortest, TILE), round_up(longest, TILE) + 1, TILE)
        ]
        shapes = [(present, prompt) for present in range(cameras, 0, -1) for prompt in prompts]
        calls = blank_calls(self.config, shapes, rows=len(self.chips), max_gain=max_gain)
        return calls if self.chips[0].traces is None else calls * 2

    def forget(self) -> None:
        """Frees what is kept of former calls: the next one is answered as by a model that was asked nothing yet."""
        for chip in self.chips:
            chip.forget()

    def release(self) -> None:
        """Frees all that the model has on its chips; it cannot compute any more."""
        for chip in self.chips:
            chip.release()

    def describe(self) -> dict[str, Any]:
        """Returns what runs where: parts, chips, precision by role, bytes of weights by part (all of them in DRAM)."""
        chip, backbone = self.chips[0], self.backbone
        grid = chip.device.compute_with_storage_grid_size()
        sizes = dict.fromkeys(PARTS, 0)
        for name, tensor in chip.uploaded.items():
            part = next(part for part, start in PARTS.items() if name.startswith(start))
            sizes[part] += int(tensor.buffer_num_pages() * tensor.buffer_page_size())
        return {
            "replicas": len(self.chips),
            "parts": {
                "backbone": type(backbone).__name__,
                "vision_tower": type(backbone.vision_tower).__name__,
                "multi_modal_projector": type(backbone.multi_modal_projector).__name__,
                "suffix_embedding": type(self.suffix_embedding).__name__,
            },
            "device": {"architecture": chip.device.arch().name, "grid": (grid.x, grid.y)},
            "precision": {"preset": self._precision_name, **table(self.precision)},
            "weight_bytes": sizes,
            "programs": "stock" if chip.programs.stock else "ours",
            "programs_refused": dict(chip.programs.refused),
            "transfers": {
                "uploads_per_pass": uploads_per_pass(self.config),
                "uploads_per_new_prompt": UPLOADS_PER_PROMPT if self.config.state_dim else 0,
                "readbacks_per_call": 1,
            },
        }
