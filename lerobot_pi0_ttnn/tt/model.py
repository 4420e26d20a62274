"""pi0 from images, prompt and state to a chunk of actions, in TTNN. Twin: `reference/model.py`.

The graph, and nothing else: `device/executor.py` feeds it and runs it.
"""

import ttnn

from ..model.config import PI0ModelConfig
from .inputs import Context, Inputs
from .paligemma import PaliGemmaBackboneTTNN, Prefix
from .precision import Precision
from .suffix import SuffixEmbeddingTTNN
from .weights import DeviceWeights


class PI0GraphTTNN:
    """pi0 on one chip: all that is computed is computed there, for one row of a batch.

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

    def embed_prefix(self, observation: Inputs, context: Context) -> ttnn.Tensor:
        """Returns the embeddings of images and prompt."""
        return self.backbone.embed_prefix(observation, context)

    def prefill(self, embeddings: ttnn.Tensor, observation: Inputs, context: Context) -> Prefix:
        """Returns the keys and values of all that is the same in every step."""
        prefix = self.backbone.prefill(embeddings, context)
        given = self.suffix_embedding.embed_given(observation)
        for block, tokens in zip(context.blocks[1:-1], given, strict=True):
            self.backbone.extend(prefix, tokens, block)
        return prefix

    def velocity(self, x_t: ttnn.Tensor, time_bias: ttnn.Tensor, prefix: Prefix) -> ttnn.Tensor:
        """Returns dx/dt, (1, 1, horizon, action_dim) float32."""
        action_embeddings = self.suffix_embedding.embed_actions(x_t, time_bias)
        return self.suffix_embedding.velocity(self.backbone.forward_actions(action_embeddings, prefix))
