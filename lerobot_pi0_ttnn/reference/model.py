"""pi0 from images, prompt and state to a chunk of actions, in PyTorch. Twin: `tt/model.py`."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..flow import euler_integrate, sample_noise, schedule
from ..latency import Stage, timed_steps, untimed
from ..model_config import PI0ModelConfig
from ..rtc import Guidance, guided
from ..weights import Weights, check_weights
from .paligemma import PaliGemmaBackboneTorch
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

    def __init__(
        self, config: PI0ModelConfig, weights: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32
    ) -> None:
        check_weights(config, weights)
        self.config = config
        self.backbone = PaliGemmaBackboneTorch(config, Weights(weights), dtype)
        self.suffix_embedding = SuffixEmbeddingTorch(config, Weights(weights))

    @torch.no_grad()
    def sample_actions(
        self,
        images: Sequence[Tensor],
        img_masks: Sequence[Tensor],
        lang_tokens: Tensor,
        lang_masks: Tensor,
        state: Tensor,
        *,
        noise: Tensor | None = None,
        num_steps: int | None = None,
        generator: torch.Generator | None = None,
        guidance: Guidance[Tensor] | None = None,
        stage: Stage = untimed,
    ) -> Tensor:
        """Returns a chunk of actions, (B, horizon, action_dim) float32, in the normalised units of training.

        Args:
            images: for each camera (B, 3, image_size, image_size) float32 in [-1, 1].
            img_masks: for each camera (B,) bool, False where it is absent.
            lang_tokens: (B, L) int64.
            lang_masks: (B, L) bool, False on padding.
            state: (B, state_dim) float32, zero-padded.
            noise: (B, horizon, action_dim) float32; drawn from `generator` by default.
            num_steps: Euler steps; `config.num_steps` by default.
            generator: source of the noise; torch's global one by default.
            guidance: towards the former chunk; none by default.
            stage: in whose contexts the work is done, to time it.
        """
        steps = self.config.num_steps if num_steps is None else num_steps
        times = schedule(steps)
        time_bias = self.suffix_embedding.time_bias(times)
        if noise is None:
            noise = self.sample_noise(
                (state.shape[0], self.config.horizon, self.config.action_dim), generator=generator
            )

        with stage("vision"):
            embeddings, is_real = self.backbone.embed_prefix(images, img_masks, lang_tokens, lang_masks)
        with stage("prefill"):
            prefix = self.backbone.prefill(embeddings, is_real)
            self.backbone.write_state(self.suffix_embedding.embed_state(state), prefix)

        def velocity(x_t: Tensor, step: int) -> Tensor:
            action_embeddings = self.suffix_embedding.embed_actions(x_t, time_bias[step])
            return self.suffix_embedding.velocity(self.backbone.forward_actions(action_embeddings, prefix))

        field = guided(velocity, guidance, times) if guidance else velocity
        return euler_integrate(timed_steps(field, stage), noise, steps)

    warm_up_rounds = 1
    """How often each of `warm_up_shapes` is run."""

    def warm_up_shapes(self, cameras: int, tokens: int) -> list[tuple[int, int]]:
        """Returns the (cameras, prompt tokens) to run once before it counts: any, to have the weights read from disk.

        Args:
            cameras: the most that will be present.
            tokens: of the longest prompt.
        """
        return [(1, 1)]
