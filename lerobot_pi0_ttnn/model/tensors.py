"""The names and shapes of pi0's and pi0.5's tensors, and the cursor with which a part takes its own.

The names are those of LeRobot's `PI0Policy.state_dict()` and `PI05Policy.state_dict()` without the leading `model.`;
attributes bear them too.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .config import GemmaConfig, PI0ModelConfig, VisionConfig

PALIGEMMA = "paligemma_with_expert.paligemma.model"
VISION_TOWER = f"{PALIGEMMA}.vision_tower.vision_model"
PROJECTOR = f"{PALIGEMMA}.multi_modal_projector"
LANGUAGE_MODEL = f"{PALIGEMMA}.language_model"
EXPERT = "paligemma_with_expert.gemma_expert.model"

Shapes = Mapping[str, tuple[int, ...]]


@runtime_checkable
class HasShapes(Protocol):
    """A source of tensors that knows their shapes without reading them."""

    def shapes(self) -> Shapes:
        """Returns the shape of each tensor by name."""


def expected_shapes(config: PI0ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor that the model needs, by name; nothing else may be left over."""
    width = config.expert.width
    return dict(
        [
            *_vision_shapes(config.vision),
            (f"{PROJECTOR}.linear.weight", (config.vlm.width, config.vision.hidden_size)),
            (f"{PROJECTOR}.linear.bias", (config.vlm.width,)),
            (f"{LANGUAGE_MODEL}.embed_tokens.weight", (config.vocab_size, config.vlm.width)),
            *_gemma_shapes(LANGUAGE_MODEL, config.vlm),
            *_gemma_shapes(EXPERT, config.expert),
            *(_linear_shapes("state_proj", width, config.state_dim) if config.state_dim else ()),
            *_linear_shapes("action_in_proj", width, config.action_dim),
            *_time_mlp_shapes(config.expert),
            *_linear_shapes("action_out_proj", config.action_dim, width),
        ]
    )


def _linear_shapes(name: str, rows: int, columns: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (rows, columns)
    yield f"{name}.bias", (rows,)


def _time_mlp_shapes(expert: GemmaConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    name, inputs = ("time_mlp", 1) if expert.adaptive_norms else ("action_time_mlp", 2)
    yield from _linear_shapes(f"{name}_in", expert.width, inputs * expert.width)
    yield from _linear_shapes(f"{name}_out", expert.width, expert.width)


def _rms_norm_shapes(name: str, gemma: GemmaConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    if gemma.adaptive_norms:
        yield from _linear_shapes(f"{name}.dense", 3 * gemma.width, gemma.width)
    else:
        yield f"{name}.weight", (gemma.width,)


def _vision_shapes(vision: VisionConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, mlp = vision.hidden_size, vision.intermediate_size
    yield f"{VISION_TOWER}.embeddings.patch_embedding.weight", (width, 3, vision.patch_size, vision.patch_size)
    yield f"{VISION_TOWER}.embeddings.patch_embedding.bias", (width,)
    yield f"{VISION_TOWER}.embeddings.position_embedding.weight", (vision.num_patches, width)
    for layer in range(vision.num_hidden_layers):
        name = f"{VISION_TOWER}.encoder.layers.{layer}"
        for norm in ("layer_norm1", "layer_norm2"):
            yield f"{name}.{norm}.weight", (width,)
            yield f"{name}.{norm}.bias", (width,)
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear_shapes(f"{name}.self_attn.{projection}", width, width)
        yield from _linear_shapes(f"{name}.mlp.fc1", mlp, width)
        yield from _linear_shapes(f"{name}.mlp.fc2", width, mlp)
    yield f"{VISION_TOWER}.post_layernorm.weight", (width,)
    yield f"{VISION_TOWER}.post_layernorm.bias", (width,)


def _gemma_shapes(prefix: str, gemma: GemmaConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, queries, keys = gemma.width, gemma.num_heads * gemma.head_dim, gemma.num_kv_heads * gemma.head_dim
    for layer in range(gemma.depth):
        name = f"{prefix}.layers.{layer}"
        yield from _rms_norm_shapes(f"{name}.input_layernorm", gemma)
        yield f"{name}.self_attn.q_proj.weight", (queries, width)
        yield f"{name}.self_attn.k_proj.weight", (keys, width)
        yield f"{name}.self_attn.v_proj.weight", (keys, width)
        yield f"{name}.self_attn.o_proj.weight", (width, queries)
        yield from _rms_norm_shapes(f"{name}.post_attention_layernorm", gemma)
        yield f"{name}.mlp.gate_proj.weight", (gemma.mlp_dim, width)
        yield f"{name}.mlp.up_proj.weight", (gemma.mlp_dim, width)
        yield f"{name}.mlp.down_proj.weight", (width, gemma.mlp_dim)
    yield from _rms_norm_shapes(f"{prefix}.norm", gemma)


def check_shapes(config: PI0ModelConfig, shapes: Shapes, *, where: str = "weights") -> None:
    """Checks that a set of tensors is exactly the one that the model needs.

    Args:
        config: sizes of the model.
        shapes: shape of each tensor that there is, by name.
        where: what to call the set in the error.

    Raises:
        ValueError: one error with every missing, unexpected and mis-shaped tensor.
    """
    expected = expected_shapes(config)
    missing = sorted(expected.keys() - shapes.keys())
    unexpected = sorted(shapes.keys() - expected.keys())
    misshaped = sorted(name for name in expected.keys() & shapes.keys() if tuple(shapes[name]) != expected[name])
    if not (missing or unexpected or misshaped):
        return
    model = "pi0.5" if config.expert.adaptive_norms else "pi0"
    lines = [f"{where}: not a complete {model} model, so nothing is loaded."]
    lines += [f"  missing {name}: expected {expected[name]}" for name in missing]
    lines += [f"  unexpected {name}: {tuple(shapes[name])}" for name in unexpected]
    lines += [f"  wrong shape {name}: expected {expected[name]}, got {tuple(shapes[name])}" for name in misshaped]
    lines.append(f"Check that this is a {model} checkpoint of the configured size and that its download is complete.")
    raise ValueError("\n".join(lines))


def shapes_of(weights: Mapping[str, Tensor]) -> Shapes:
    """Returns the shape of each tensor by name, without reading any where the source knows them."""
    return weights.shapes() if isinstance(weights, HasShapes) else {n: tuple(t.shape) for n, t in weights.items()}


def check_weights(config: PI0ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Checks, before anything is read, that `weights` are exactly the tensors that the model needs.

    Raises:
        ValueError: one error with every missing, unexpected and mis-shaped tensor.
    """
    check_shapes(config, shapes_of(weights), where=str(weights) if isinstance(weights, HasShapes) else "weights")


class Weights:
    """A cursor over named tensors: each part is given the cursor that stands at its own name.

    Args:
        tensors: all tensors by name.
        name: where this cursor stands.
        on_take: is told the full name of each tensor that is taken, for a progress bar.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], name: str = "", *, on_take: Callable[[str], object] | None = None
    ) -> None:
        self.name = name
        self._tensors = tensors
        self._on_take = on_take

    def at(self, name: str) -> "Weights":
        """Returns the cursor that stands at `name` below this one."""
        return Weights(self._tensors, f"{self.name}.{name}" if self.name else name, on_take=self._on_take)

    def take(self, name: str, dtype: torch.dtype) -> Tensor:
        """Returns the tensor `name` below this cursor in `dtype`, as stored (no copy) where it already is.

        Raises:
            KeyError: where there is no such tensor.
        """
        full_name = self.at(name).name
        if self._on_take:
            self._on_take(full_name)
        return self._tensors[full_name].to(dtype)
