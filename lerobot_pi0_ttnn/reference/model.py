"""pi0 and pi0.5 from images, prompt and state to a chunk of actions, in PyTorch. Twin: `tt/model.py`, of pi0."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..latency import Stage, untimed
from ..model.config import PI0ModelConfig
from ..model.flow import advanced, sample_noise, schedule
from ..model.observation import Observation, takes_parts
from ..model.rtc import Guidance
from ..model.sampling import sample
from ..model.tensors import Weights, check_weights
from .paligemma import Context, ExpertModulations, PaliGemmaBackboneTorch, Prefix, make_context
from .suffix import SuffixEmbeddingTorch


@dataclass(frozen=True)
class Step:
    """What a time brings to its step, the same in every chunk.

    Attributes:
        time_bias: pi0's, see `SuffixEmbeddingTorch.time_bias`; None in pi0.5.
        modulations: pi0.5's; None in pi0.
    """

    time_bias: Tensor | None = None
    modulations: ExpertModulations | None = None


class PI0ModelTorch:
    """pi0, or pi0.5 where its config says so, in PyTorch on the CPU: the definition of correct in float32, faster in bfloat16.

    Args:
        config: sizes of the model.
        weights: all tensors by name, `PI0WeightLoader` or a plain dict; kept without a copy where they have `dtype`.
        dtype: of the matmuls; norms, softmax, RoPE, the time table, x_t and the suffix projections are always float32.
        on_take: see `Weights`.

    Raises:
        ValueError: with every missing, unexpected and mis-shaped tensor.
    """

    sample_noise = staticmethod(sample_noise)
    advance = staticmethod(advanced)

    def __init__(
        self,
        config: PI0ModelConfig,
        weights: Mapping[str, Tensor],
        *,
        dtype: torch.dtype = torch.float32,
        on_take: Callable[[str], object] | None = None,
    ) -> None:
        check_weights(config, weights)
        self.config = config
        cursor = Weights(weights, on_take=on_take)
        self.backbone = PaliGemmaBackboneTorch(config, cursor, dtype)
        self.suffix_embedding = SuffixEmbeddingTorch(config, cursor)

    def embed_prefix(self, observation: Observation, context: Context) -> Tensor:
        """Returns the embeddings of images and prompt."""
        return self.backbone.embed_prefix(observation, context)

    def prefill(self, embeddings: Tensor, observation: Observation, context: Context) -> Prefix:
        """Returns all that is the same in every step: the prefix's keys and values, the state's token."""
        prefix = self.backbone.prefill(embeddings, context)
        if not self.config.state_dim:
            return prefix
        return replace(prefix, state=self.suffix_embedding.embed_state(observation.state))

    def steps(self, times: Sequence[float]) -> list[Step]:
        """Returns what each of the times, in [0, 1], brings to its step."""
        if self.config.expert.adaptive_norms:
            conditions = self.suffix_embedding.time_conditions(times)
            return [Step(modulations=modulations) for modulations in self.backbone.modulations(conditions)]
        return [Step(time_bias=bias) for bias in self.suffix_embedding.time_bias(times)]

    def velocity(self, x_t: Tensor, step: Step, prefix: Prefix) -> Tensor:
        """Returns dx/dt, (B, horizon, action_dim) float32."""
        embeddings = self.suffix_embedding.embed_suffix(x_t, step.time_bias, prefix.state)
        output = self.backbone.forward_suffix(embeddings, prefix, step.modulations)
        return self.suffix_embedding.velocity(output)

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

        Raises:
            ValueError: where the state is not as wide as the model's.
        """
        config = self.config
        if observation.state.shape[1] != config.state_dim:
            raise ValueError(
                f"state: expected (B, {config.state_dim}), got {tuple(observation.state.shape)}; pad pi0's with zeros; pi0.5 "
                "reads its state in the prompt"
            )
        times = schedule(config.num_steps if num_steps is None else num_steps)
        if noise is None:
            noise = self.sample_noise((observation.rows, config.horizon, config.action_dim), generator=generator)
        context = make_context(observation, config)
        return sample(self, observation, context, noise, self.steps(times), times, guidance, stage)
