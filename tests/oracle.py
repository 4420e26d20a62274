"""LeRobot's own `PI0Policy` and `PI05Policy`, made as small as `TINY`: the judges that nobody here wrote."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TypedDict

import lerobot.policies.pi0.modeling_pi0 as lerobot_pi0
import lerobot.policies.pi05.modeling_pi05 as lerobot_pi05
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.common.vla_utils import make_att_2d_masks, prepare_attention_masks_4d
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from torch import Tensor
from transformers import DynamicCache

from lerobot_pi0_ttnn.model.config import TINY, PI0ModelConfig
from lerobot_pi0_ttnn.model.flow import advanced, schedule
from lerobot_pi0_ttnn.model.rtc import Guidance
from lerobot_pi0_ttnn.model.sampling import denoise

CAMERAS = ("front", "wrist", "side")
STATE_DIM = 14
ACTION_DIM = 7


@contextlib.contextmanager
def sized(model: PI0ModelConfig) -> Iterator[None]:
    """Lets LeRobot build a `PI0Policy` or a `PI05Policy` of the given sizes; its configs only know gemma_2b and gemma_300m."""
    lerobot = lerobot_pi05 if model.expert.adaptive_norms else lerobot_pi0
    originals = {
        name: getattr(lerobot, name)
        for name in ("get_gemma_config", "PaliGemmaForConditionalGenerationWithPiGemma", "PiGemmaForCausalLM")
    }

    def gemma_config(variant: str):
        part = model.vlm if variant == "gemma_2b" else model.expert
        return lerobot.GemmaConfig(
            width=part.width,
            depth=part.depth,
            mlp_dim=part.mlp_dim,
            num_heads=part.num_heads,
            num_kv_heads=part.num_kv_heads,
            head_dim=part.head_dim,
        )

    def paligemma(config):
        vision = config.vision_config
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            setattr(vision, name, getattr(model.vision, name))
        vision.projection_dim = model.vlm.width
        config.text_config.vocab_size = config._vocab_size = config.image_token_index = model.vocab_size
        return originals["PaliGemmaForConditionalGenerationWithPiGemma"](config=config)

    def expert(config):
        config.vocab_size = model.vocab_size
        return originals["PiGemmaForCausalLM"](config=config)

    replacements = (gemma_config, paligemma, expert)
    for name, replacement in zip(originals, replacements, strict=True):
        setattr(lerobot, name, replacement)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(lerobot, name, original)


def make_lerobot_policy(
    cameras: Sequence[str] = CAMERAS,
    state_dim: int = STATE_DIM,
    action_dim: int = ACTION_DIM,
    seed: int = 0,
    model: PI0ModelConfig = TINY,
    **config,
) -> lerobot_pi0.PI0Policy | lerobot_pi05.PI05Policy:
    """LeRobot's policy with seeded weights, large enough that every part of the model moves the result."""
    features = {f"observation.images.{c}": PolicyFeature(FeatureType.VISUAL, (3, 480, 640)) for c in cameras}
    features["observation.state"] = PolicyFeature(FeatureType.STATE, (state_dim,))
    config = {"device": "cpu", **config}
    config_class, policy_class = (
        (PI05Config, lerobot_pi05.PI05Policy) if model.expert.adaptive_norms else (PI0Config, lerobot_pi0.PI0Policy)
    )
    policy_config = config_class(
        input_features=features,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (action_dim,))},
        **config,
    )
    with sized(model):
        policy = policy_class(policy_config)
    randomise(policy, seed)
    return policy.eval()


@torch.no_grad()
def randomise(module: torch.nn.Module, seed: int) -> None:
    """Fan-in-scaled matrices, norms off their zero, biases that show: default initialisation hides mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "norm" in name and parameter.ndim == 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
            if name.endswith("weight") and ("layer_norm" in name or "post_layernorm" in name):
                parameter.add_(1.0)
        elif parameter.ndim > 1:
            fan_in = parameter[0].numel() if "embed" not in name or "patch" in name else 4 * parameter.shape[-1]
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.2 / fan_in**0.5)
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def state_dict(policy: torch.nn.Module) -> dict[str, Tensor]:
    """The policy's tensors under our names: without `model.` and without the two unused heads."""
    return {
        name.removeprefix("model."): tensor for name, tensor in policy.state_dict().items() if "lm_head" not in name
    }


def make_batch(
    batch: int = 2,
    cameras: Sequence[str] = CAMERAS[1:],
    state_dim: int = STATE_DIM,
    seed: int = 1,
    size: tuple[int, int] = (120, 160),
    lengths: Sequence[int] = (10, 23),
    max_length: int = 48,
    vocab: int = TINY.vocab_size,
) -> dict[str, Tensor]:
    """What LeRobot's preprocessor hands to a policy. By default the awkward case: two rows, prompts of unlike length
    padded to 48, the first camera absent, images that are not square."""
    generator = torch.Generator().manual_seed(seed)
    out = {f"observation.images.{c}": torch.rand(batch, 3, *size, generator=generator) for c in cameras}
    out["observation.state"] = torch.randn(batch, state_dim, generator=generator)
    tokens = torch.zeros(batch, max_length, dtype=torch.long)
    for row in range(batch):
        length = lengths[row % len(lengths)]
        tokens[row, :length] = torch.randint(3, vocab, (length,), generator=generator)
        tokens[row, 0], tokens[row, length - 1] = 2, 108
    out["observation.language.tokens"] = tokens
    out["observation.language.attention_mask"] = tokens != 0
    return out


def integrate(velocity, noise: Tensor, num_steps: int, guidance: Guidance[Tensor] | None = None) -> Tensor:
    """What both twins' loop makes of a velocity field, which is called with x and the number of the step."""
    graph = SimpleNamespace(velocity=lambda x, step, _: velocity(x, step), advance=advanced)
    return denoise(graph, None, noise, range(num_steps), schedule(num_steps), guidance)


def make_noise(batch: int = 2, seed: int = 3) -> Tensor:
    return torch.randn(batch, 50, 32, generator=torch.Generator().manual_seed(seed))


class ModelInputs(TypedDict):
    """What `sample_actions` takes, here and in LeRobot."""

    images: list[Tensor]
    img_masks: list[Tensor]
    lang_tokens: Tensor
    lang_masks: Tensor
    state: Tensor


def model_inputs(policy: lerobot_pi0.PI0Policy | lerobot_pi05.PI05Policy, batch: dict[str, Tensor]) -> ModelInputs:
    """The batch as LeRobot itself prepares it for its model. pi0.5's has no state, of which ours is told by a width of 0."""
    images, img_masks = policy._preprocess_images(batch)
    state = batch["observation.state"]
    return {
        "images": images,
        "img_masks": img_masks,
        "lang_tokens": batch["observation.language.tokens"],
        "lang_masks": batch["observation.language.attention_mask"],
        "state": policy.prepare_state(batch) if isinstance(policy, lerobot_pi0.PI0Policy) else state[:, :0],
    }


@dataclass(frozen=True)
class LeRobotPrefix:
    """LeRobot's prefix: all cameras and the whole padded prompt, masked rather than left out."""

    embeddings: Tensor
    is_real: Tensor
    cache: DynamicCache


def lerobot_prefill(policy: lerobot_pi0.PI0Policy | lerobot_pi05.PI05Policy, inputs: ModelInputs) -> LeRobotPrefix:
    """The first half of LeRobot's `PI0Pytorch.sample_actions`, which does not return it."""
    model = policy.model
    embeddings, is_real, att_masks = model.embed_prefix(
        inputs["images"], inputs["img_masks"], inputs["lang_tokens"], inputs["lang_masks"]
    )
    model.paligemma_with_expert.paligemma.model.language_model.config._attn_implementation = "eager"
    _, cache = model.paligemma_with_expert.forward(
        attention_mask=prepare_attention_masks_4d(make_att_2d_masks(is_real, att_masks)),
        position_ids=torch.cumsum(is_real, dim=1) - 1,
        past_key_values=None,
        inputs_embeds=[embeddings, None],
        use_cache=True,
    )
    return LeRobotPrefix(embeddings, is_real, cache)


def only_row(inputs: ModelInputs, row: int) -> ModelInputs:
    """A batch of that row alone."""
    pick = slice(row, row + 1)
    return {
        "images": [image[pick] for image in inputs["images"]],
        "img_masks": [mask[pick] for mask in inputs["img_masks"]],
        "lang_tokens": inputs["lang_tokens"][pick],
        "lang_masks": inputs["lang_masks"][pick],
        "state": inputs["state"][pick],
    }
