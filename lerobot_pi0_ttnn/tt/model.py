"""pi0 and pi0.5 from images, prompt and state to a chunk of actions, in TTNN. Twin: `reference/model.py`.

The graph, and nothing else: `device/executor.py` feeds it and runs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import ttnn

from ..model.config import PI0ModelConfig
from .inputs import Context, Inputs
from .paligemma import ExpertModulations, PaliGemmaBackboneTTNN, Prefix
from .precision import Precision
from .suffix import SuffixEmbeddingTTNN
from .weights import DeviceWeights


@dataclass(frozen=True)
class Step:
    """What a time brings to its step, the same in every chunk.

    Attributes:
        time_bias: pi0's, see `SuffixEmbeddingTTNN.time_bias`; None in pi0.5.
        modulations: pi0.5's; None in pi0.
    """

    time_bias: ttnn.Tensor | None = None
    modulations: ExpertModulations | None = None

    def tensors(self) -> list[ttnn.Tensor]:
        """Returns all that is on the device."""
        if self.modulations is None:
            return [self.time_bias]
        blocks = [each for block in self.modulations.layers for each in (block.attention, block.mlp)]
        return [
            tensor
            for each in (*blocks, self.modulations.norm)
            if each is not None
            for tensor in (each.scale, each.shift, each.gate)
        ]


class PI0GraphTTNN:
    """pi0, or pi0.5 where its config says so, on one chip: all of it is computed there, for the rows of a batch together.

    Args:
        config: sizes of the model.
        weights: cursor at the root of the checkpoint.
        precision: of each part.
    """

    advance = staticmethod(ttnn.addalpha)

    def __init__(self, config: PI0ModelConfig, weights: DeviceWeights, precision: Precision) -> None:
        self.config = config
        self.backbone = PaliGemmaBackboneTTNN(config, weights, precision)
        self.suffix_embedding = SuffixEmbeddingTTNN(
            config, weights, self.backbone.expert_norm, precision.suffix, precision.expert.stream
        )

    def steps(self, times: Sequence[float]) -> list[Step]:
        """Returns what each of the times brings to its step, newly allocated."""
        if self.config.expert.adaptive_norms:
            conditions = self.suffix_embedding.time_conditions(times)
            return [Step(modulations=modulations) for modulations in self.backbone.modulations(conditions)]
        return [Step(time_bias=bias) for bias in self.suffix_embedding.time_bias(times)]

    def embed_prefix(self, observation: Inputs, context: Context) -> ttnn.Tensor:
        """Returns the embeddings of images and prompt."""
        return self.backbone.embed_prefix(observation, context)

    def prefill(self, embeddings: ttnn.Tensor, observation: Inputs, context: Context) -> Prefix:
        """Returns all that is the same in every step: the prefix's keys and values, the state's token."""
        prefix = self.backbone.prefill(embeddings, context)
        if observation.proprioception is None:
            return prefix
        state = self.suffix_embedding.embed_state(observation.proprioception)
        return replace(prefix, state=state, is_action=context.is_action)

    def velocity(self, x_t: ttnn.Tensor, step: Step, prefix: Prefix) -> ttnn.Tensor:
        """Returns dx/dt, (1, 1, B * T, action_dim) float32."""
        embeddings = self.suffix_embedding.embed_suffix(x_t, step.time_bias, prefix.state, prefix.is_action)
        output = self.backbone.forward_suffix(embeddings, prefix, step.modulations)
        return self.suffix_embedding.velocity(output)
