"""Each part of the TTNN twin against the float32 twin, given that twin's inputs: it answers for its own error only."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import ttnn
from torch import Tensor

from ..certificate import CHUNK_LIMITS, grown
from ..device.executor import PI0ModelTTNN, present_images, real_prompts
from ..latency import untimed
from ..model.flow import schedule
from ..model.observation import Observation
from ..reference import PI0ModelTorch
from ..reference.gemma import BlockModulations as TorchModulations
from ..reference.gemma import KeyValueCache as TorchCache
from ..reference.paligemma import make_context
from ..tt.gemma import NOT_ADAPTIVE, KeyValueCache
from ..tt.inputs import Context, Inputs
from ..tt.program import TILE, round_up
from ..tt.weights import to_device

LIMITS = {
    "vision": {"accurate": 0.012, "balanced": 0.03, "fast": 0.06},
    "language": {"accurate": 0.005, "balanced": 0.005, "fast": 0.005},
    "layer": {"accurate": 0.012, "balanced": 0.03, "fast": 0.06},
    "cache": {"accurate": 0.018, "balanced": 0.04, "fast": 0.08},
    "velocity": {"accurate": 0.012, "balanced": 0.03, "fast": 0.06},
    "chunk": {name: CHUNK_LIMITS[name] for name in ("accurate", "balanced", "fast")},
}
"""The greatest relative RMSE by kind of part and precision: docs/parity.md, at full width where it has that; twice that of
`balanced` for `fast`, whose multipliers make fewer passes. The PCC that such an error leaves is demanded with it."""


@dataclass(frozen=True)
class Part:
    """What both twins compute of one part.

    Attributes:
        name: `keys, layer 3`.
        kind: a key of `LIMITS`.
        got: of the TTNN twin, float32.
        want: of the float32 twin.
        depth: layers that the value has passed through.
    """

    name: str
    kind: str
    got: Tensor
    want: Tensor
    depth: int = 1

    def limit(self, precision: str) -> float:
        """Returns the greatest relative RMSE in a precision."""
        return grown(LIMITS[self.kind][precision], self.depth)


@dataclass(frozen=True)
class Row:
    """One row of a batch on the device, until another of its size takes the place of its context."""

    context: Context
    inputs: Inputs


def upload_row(model: PI0ModelTTNN, observation: Observation, row: int, noise: Tensor) -> Row:
    """Returns one row of an observation on the device, as `sample_actions` puts it there.

    Args:
        model: on the device.
        observation: of a batch.
        row: of the batch.
        noise: (B, horizon, action_dim) float32.
    """
    chip, one = model.chips[0], observation.select([row])
    images, tokens = present_images(one), real_prompts(one)
    uploaded = chip.make_inputs(images, tokens, one.state, noise[row : row + 1]).on(chip.device)
    context = chip.contexts.load(len(images), tokens)
    return Row(model.backbone.read_prompt(uploaded.prompt, context) if uploaded.prompt else context, uploaded)


def up(model: PI0ModelTTNN, x: Tensor, dtype: ttnn.DataType = ttnn.float32) -> ttnn.Tensor:
    """Returns (T, D) rows as (1, 1, T, D) on the device, padded with zeros to whole tiles."""
    rows = round_up(x.shape[-2], TILE) - x.shape[-2]
    return to_device(F.pad(x, (0, 0, 0, rows))[None, None], dtype, model.chips[0].device)


def up_actions(model: PI0ModelTTNN, x_t: Tensor) -> ttnn.Tensor:
    """Returns (horizon, action_dim) rows where the suffix has its actions, (1, 1, T, action_dim) float32 on the device."""
    chip = model.chips[0]
    return ttnn.to_device(chip.make_inputs.actions(x_t[None]), chip.device)


def actions_of(model: PI0ModelTTNN, x: ttnn.Tensor) -> Tensor:
    """Returns what (1, 1, T, action_dim) has in the actions' rows of the suffix, (horizon, action_dim) float32."""
    return model._read(x, untimed)[0]


def up_to_expert(model: PI0ModelTTNN, x: Tensor, dtype: ttnn.DataType = ttnn.float32) -> ttnn.Tensor:
    """Returns what `up` does, in shards, where the expert's stream is kept."""
    rows, columns = round_up(x.shape[-2], TILE), x.shape[-1]
    return ttnn.to_memory_config(up(model, x, dtype), model.suffix_embedding.programs.in_shards(rows, columns))


def down(x: ttnn.Tensor, rows: int) -> Tensor:
    """Returns the first rows of (1, 1, T, D), float32."""
    value: Tensor = ttnn.to_torch(x).float()[0, 0, :rows]
    return value


def store(cache: KeyValueCache, keys: ttnn.Tensor, values: ttnn.Tensor, start: int) -> None:
    """Puts (1, 1, T, H) keys and values on the device in the cache, whole tiles, by ttnn's own op."""
    ttnn.fill_cache(cache.keys, keys, 0, update_idx=start)
    ttnn.fill_cache(cache.values, values, 0, update_idx=start)


def tokens_of(cached: ttnn.Tensor, start: int, length: int) -> Tensor:
    """Returns (length, H) keys or values of a cache (1, 1, S, H) from token `start` on."""
    value: Tensor = ttnn.to_torch(cached).float()[0, 0, start : start + length]
    return value


@torch.no_grad()
def parts(
    twin: PI0ModelTorch, tt: PI0ModelTTNN, observation: Observation, noise: Tensor, *, actions: int
) -> Iterator[Part]:
    """Yields the stations of a chunk: embeddings, keys and values, velocity, actions.

    Args:
        twin: float32.
        tt: of the same weights.
        observation: of one row.
        noise: (1, horizon, action_dim) float32.
        actions: so many of the dimensions of an action count.
    """
    config = twin.config
    row = upload_row(tt, observation, 0, noise)
    context = make_context(observation, config)
    embeddings = twin.embed_prefix(observation, context)
    length = embeddings.shape[1]
    images = len(context.cameras) * config.vision.num_patches
    got = down(tt.backbone.embed_prefix(row.inputs, row.context), length)
    if images:
        depth = config.vision.num_hidden_layers
        yield Part("vision and projector", "vision", got[:images], embeddings[0, :images], depth)
    if length > images:
        yield Part("language", "language", got[images:], embeddings[0, images:])
    prefix = twin.prefill(embeddings, observation, context)
    stream = up(tt, embeddings[0], tt.precision.vlm.stream)
    caches = tt.backbone.prefill(stream, row.context).caches
    for layer, (ours, theirs) in enumerate(zip(caches, prefix.caches, strict=True)):
        for name in ("keys", "values"):
            got = tokens_of(getattr(ours, name), 0, length)
            yield Part(f"{name}, layer {layer}", "cache", got, getattr(theirs, name)[0, 0, :length], layer)
    times = schedule(config.num_steps)
    steps, tt_steps = twin.steps(times), tt.chips[0].steps(times)
    graph = tt.chips[0].graph
    tt_prefix = graph.prefill(stream, row.inputs, row.context)
    for cache, source in zip(tt_prefix.caches, prefix.caches, strict=True):
        _store_prefix(tt, cache, source, length)
    x_t = noise
    for number, (step, tt_step) in enumerate(zip(steps, tt_steps, strict=True)):
        want = twin.velocity(x_t, step, prefix)
        if number in (0, len(times) // 2, len(times) - 1):
            got = actions_of(tt, graph.velocity(up_actions(tt, x_t[0]), tt_step, tt_prefix))
            yield Part(f"velocity at t = {times[number]:.1f}", "velocity", got, want[0], config.expert.depth)
        x_t = x_t - want / len(times)
    chunk = twin.sample_actions(observation, noise=noise)
    got = tt.sample_actions(observation, noise=noise)
    yield Part("whole chunk", "chunk", got[..., :actions], chunk[..., :actions], config.expert.depth)


@torch.no_grad()
def layers(twin: PI0ModelTorch, tt: PI0ModelTTNN, observation: Observation, noise: Tensor) -> Iterator[Part]:
    """Yields each layer on its own: of SigLIP, of Gemma for the prefix, of the expert for the suffix.

    Args:
        twin: float32.
        tt: of the same weights.
        observation: of one row.
        noise: (1, horizon, action_dim) float32: the actions at t = 1.
    """
    config = twin.config
    context = make_context(observation, config)
    if context.cameras:
        yield from _vision_layers(twin, tt, observation.images[context.cameras[0]])
    embeddings = twin.embed_prefix(observation, context)
    row = upload_row(tt, observation, 0, noise)
    caches, blocks = row.context.caches, row.context.blocks
    prefix = twin.prefill(embeddings, observation, context)
    x, block = embeddings, context.blocks[0]
    pairs = zip(twin.backbone.vlm_layers, tt.backbone.vlm_layers, prefix.caches[:-1], caches[:-1], strict=True)
    for number, (layer, tt_layer, cache, tt_cache) in enumerate(pairs):
        stream = up(tt, x[0], tt.precision.vlm.stream)
        got = down(tt_layer(stream, blocks[0], tt_cache), x.shape[1])
        x = layer(x, block, cache)
        yield Part(f"prefix, layer {number}", "layer", got, x[0])
    times = schedule(config.num_steps)
    step, tt_step = twin.steps(times)[0], tt.chips[0].steps(times)[0]
    x = twin.suffix_embedding.embed_suffix(noise, step.time_bias, prefix.state)
    expert = zip(twin.backbone.expert_layers, tt.backbone.expert_layers, prefix.caches, caches, strict=True)
    for depth, (layer, tt_layer, cache, tt_cache) in enumerate(expert):
        modulations, tt_modulations = TorchModulations(), NOT_ADAPTIVE
        if step.modulations is not None and tt_step.modulations is not None:
            modulations, tt_modulations = step.modulations.layers[depth], tt_step.modulations.layers[depth]
        _store_prefix(tt, tt_cache, cache, block.end)
        stream = up_to_expert(tt, x[0], tt.precision.expert.stream)
        got = down(tt_layer(stream, blocks[-1], tt_cache, tt_modulations), x.shape[1])
        x = layer(x, prefix.suffix, cache, modulations)
        yield Part(f"expert, layer {depth}", "layer", got, x[0])


def _vision_layers(twin: PI0ModelTorch, tt: PI0ModelTTNN, images: Tensor) -> Iterator[Part]:
    tower = twin.backbone.vision_tower
    x = F.conv2d(images, tower.patch_weight, tower.patch_bias, stride=tower.config.patch_size)
    x = x.flatten(2).transpose(1, 2) + tower.position_embedding
    for number, (layer, tt_layer) in enumerate(zip(tower.layers, tt.backbone.vision_tower.layers, strict=True)):
        got = down(tt_layer(up(tt, x[0], tt.precision.vision.stream)), x.shape[1])
        x = layer(x)
        yield Part(f"SigLIP, layer {number}", "layer", got, x[0])


def _store_prefix(tt: PI0ModelTTNN, cache: KeyValueCache, source: TorchCache, length: int) -> None:
    """Puts the twin's own keys and values of the prefix in a cache: what comes after answers for its own error."""
    keys, values = (up(tt, x[0, 0, :length], ttnn.bfloat16) for x in (source.keys, source.values))
    store(cache, keys, values, 0)
