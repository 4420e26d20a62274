"""pi0 from images, prompt and state to a chunk of actions, in PyTorch. Twin: `tt/model.py`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..latency import Stage, untimed
from ..model.config import PI0ModelConfig
from ..model.flow import advanced, sample_noise, schedule
from ..model.observation import Observation, takes_parts
from ..model.rtc import Guidance
from ..model.sampling import sample
from ..model.tensors import Weights, check_weights
from .paligemma import Context, PaliGemmaBackboneTorch, Prefix, make_context
from .suffix import SuffixEmbeddingTorch


class PI0ModelTorch:
    """pi0 in PyTorch on the CPU: the definition of correct in float32, faster in bfloat16.

    Args:
        config: sizes of the model.
        weights: all tensors by name, `PI0WeightLoader` or a plain dict; kept without a copy where they have `dtype`.
        dtype: of the matmuls; norms, softmax, RoPE, the time table, x_t and the suffix projections are always float32.

    Raises:
        ValueError: with every missing, unexpected and mis-shaped tensor.
    """

    sample_noise = staticmethod(sample_noise)
    advance = staticmethod(advanced)

    def __init__(
        self, config: PI0ModelConfig, weights: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32
    ) -> None:
        check_weights(config, weights)
        self.config = config
        self.backbone = PaliGemmaBackboneTorch(config, Weights(weights), dtype)
        self.suffix_embedding = SuffixEmbeddingTorch(config, Weights(weights))

    def embed_prefix(self, observation: Observation, context: Context) -> Tensor:
        """Returns the embeddings of images and prompt."""
        return self.backbone.embed_prefix(observation, context)

    def prefill(self, embeddings: Tensor, observation: Observation, context: Context) -> Prefix:
        """Returns the keys and values of all that is the same in every step."""
        prefix = self.backbone.prefill(embeddings, context)
        given = self.suffix_embedding.embed_given(observation)
        for block, tokens in zip(context.blocks[1:-1], given, strict=True):
            self.backbone.extend(prefix, tokens, block)
        return prefix

    def velocity(self, x_t: Tensor, time_bias: Tensor, prefix: Prefix) -> Tensor:
        """Returns dx/dt, (B, horizon, action_dim) float32."""
        action_embeddings = self.suffix_embedding.embed_actions(x_t, time_bias)
        return self.suffix_embedding.velocity(self.backbone.forward_actions(action_embeddings, prefix))

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
            stage: in whose contexts the work is done, to time it.
        """
        config = self.config
        times = schedule(config.num_steps if num_steps is None else num_steps)
        if noise is None:
            noise = self.sample_noise((observation.rows, config.horizon, config.action_dim), generator=generator)
        context, time_bias = make_context(observation, config), self.suffix_embedding.time_bias(times).unbind()
        return sample(self, observation, context, noise, time_bias, times, guidance, stage)
