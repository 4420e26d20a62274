"""pi0 from images, prompt and state to a chunk of actions, in TTNN. Twin: `reference/model.py`."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
import ttnn
from torch import Tensor

from ..flow import euler_integrate, sample_noise, schedule
from ..latency import Stage, timed_steps, untimed
from ..model_config import PI0ModelConfig
from ..rtc import Guidance, guidance_of, guided
from ..weights import Weights, check_weights
from .context import UPLOADS_PER_CONTEXT, Context, Contexts
from .inputs import UPLOADS_PER_ROW, InputMaker, RowInputs
from .layers import device_bytes
from .paligemma import PaliGemmaBackboneTTNN, Prefix
from .precision import preset, table
from .program import TILE, round_up
from .suffix import SuffixEmbeddingTTNN
from .trace import Traces
from .weight_cache import WeightCache
from .weights import DeviceWeights


class PI0ModelTTNN:
    """pi0 on a Tenstorrent card: the host lays out what goes in, all that is computed is computed on the device.

    Args:
        config: sizes of the model.
        weights: all tensors by name, `PI0WeightLoader` or a plain dict; converted and uploaded one by one.
        device: an open ttnn device: a card, a simulator or an emulated board.
        precision: `accurate`, `balanced` or `fast`, see `tt/precision.py`.
        cache: where to keep the converted weights of a checkpoint, so that it loads in seconds the next time.
        traces: the device's; without, ops run one by one. Whoever shares the device shares them.
        first: the same model on another chip, from which the converted weights are copied.

    Attributes:
        one_by_one: Whether ops run one by one even where a trace could be replayed: no stage can be timed inside a trace.

    Raises:
        ValueError: with every missing, unexpected and mis-shaped tensor.
    """

    sample_noise = staticmethod(sample_noise)

    def __init__(
        self,
        config: PI0ModelConfig,
        weights: Mapping[str, Tensor],
        device: ttnn.Device,
        *,
        precision: str = "balanced",
        cache: WeightCache | None = None,
        traces: Traces | None = None,
        first: "PI0ModelTTNN | None" = None,
    ) -> None:
        self.precision = preset(precision, device.arch())
        check_weights(config, weights)
        if traces is not None:
            traces.release()
        self.config = config
        self.device = device
        on_device = DeviceWeights(Weights(weights), device, cache, first=None if first is None else first._uploaded)
        self._uploaded: Mapping[str, ttnn.Tensor] = on_device.uploaded
        self.backbone = PaliGemmaBackboneTTNN(config, on_device, self.precision)
        self.suffix_embedding = SuffixEmbeddingTTNN(
            config, on_device, self.backbone.expert_norm, self.precision.suffix, self.precision.expert.stream
        )
        if cache is not None:
            cache.commit()
        self._precision_name = precision
        self._programs = on_device.programs
        self.make_inputs = InputMaker(config, self.precision)
        self.contexts = Contexts(config, self.precision, device, self.backbone.embed_language, traces)
        self.one_by_one = False
        self._traces = traces
        # Not the model itself: a trace is not to keep it alive.
        self._identity = object()

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
        if noise is None:
            noise = self.sample_noise(
                (state.shape[0], self.config.horizon, self.config.action_dim), generator=generator
            )
        finish = self.begin(
            images,
            img_masks,
            lang_tokens,
            lang_masks,
            state,
            noise=noise,
            num_steps=num_steps,
            guidance=guidance,
            stage=stage,
        )
        return finish()

    @torch.no_grad()
    def begin(
        self,
        images: Sequence[Tensor],
        img_masks: Sequence[Tensor],
        lang_tokens: Tensor,
        lang_masks: Tensor,
        state: Tensor,
        *,
        noise: Tensor,
        num_steps: int | None = None,
        guidance: Guidance[Tensor] | None = None,
        stage: Stage = untimed,
    ) -> Callable[[], Tensor]:
        """Asks the device for a chunk, and returns what waits for it: called, once, that returns it.

        The arguments are those of `sample_actions`. Of several rows all but the last are waited for here where there are
        traces, so that whoever has other things to do begins one row.
        """
        steps = self.config.num_steps if num_steps is None else num_steps
        times = schedule(steps)
        traces = None if self.one_by_one else self._traces
        if traces is None and self._traces is not None:
            self._traces.release()
        time_bias = self.suffix_embedding.time_bias(times)

        done: list[Tensor] = []
        asked: list[ttnn.Tensor] = []
        for row in range(state.shape[0]):
            with stage("upload"):
                present = [image[row] for image, mask in zip(images, img_masks, strict=True) if mask[row]]
                context = self.contexts.load(len(present), lang_tokens[row][lang_masks[row]])
                guided_by = guidance_of(guidance, row) if guidance else None
                inputs = self.make_inputs(present, state[row], noise[row], guided_by)
                if traces is None:
                    inputs = inputs.on(self.device)
            if traces is None:
                asked.append(self._integrate(inputs, context, time_bias, times, stage))
                continue
            if asked:
                # A trace writes in one place: a row's result comes down before the next row runs.
                done.append(self._read(asked.pop(), stage))
            key = (self._identity, steps, guidance and guidance.max_gain, context.layout.state)
            asked.append(self._replay(traces, key, inputs, context, time_bias, times, stage))
        actions = asked[0] if len(asked) == 1 else ttnn.concat(asked, dim=0)
        return lambda: torch.cat([*done, self._read(actions, stage)])

    def _replay(
        self,
        traces: Traces,
        key: Hashable,
        inputs: RowInputs,
        context: Context,
        time_bias: Sequence[ttnn.Tensor],
        times: Sequence[float],
        stage: Stage,
    ) -> ttnn.Tensor:
        with stage("trace"):
            return traces.run(key, inputs, lambda inputs: self._integrate(inputs, context, time_bias, times, untimed))

    def _read(self, actions: ttnn.Tensor, stage: Stage) -> Tensor:
        with stage("readback"):
            chunk: Tensor = ttnn.to_torch(actions)
        return chunk[:, 0, : self.config.horizon, : self.config.action_dim]

    def _integrate(
        self,
        inputs: RowInputs,
        context: Context,
        time_bias: Sequence[ttnn.Tensor],
        times: Sequence[float],
        stage: Stage,
    ) -> ttnn.Tensor:
        with stage("vision"):
            embeddings = self.backbone.embed_prefix(inputs.pixels, context)
        with stage("prefill"):
            prefix = self.backbone.prefill(embeddings, context)
            self.backbone.write_state(self.suffix_embedding.embed_state(inputs.proprioception), prefix)
        return self.denoise(inputs, prefix, time_bias, times, stage)

    def denoise(
        self,
        inputs: RowInputs,
        prefix: Prefix,
        time_bias: Sequence[ttnn.Tensor],
        times: Sequence[float],
        stage: Stage = untimed,
    ) -> ttnn.Tensor:
        """Returns the row's noise after one Euler step for each of `times`.

        Args:
            inputs: of the row, on the device.
            prefix: with the state token written.
            time_bias: of `SuffixEmbeddingTTNN.time_bias`, for these times.
            times: see `flow.schedule`.
            stage: in whose contexts the work is done, to time it.
        """

        def velocity(x_t: ttnn.Tensor, step: int) -> ttnn.Tensor:
            action_embeddings = self.suffix_embedding.embed_actions(x_t, time_bias[step])
            return self.suffix_embedding.velocity(self.backbone.forward_actions(action_embeddings, prefix))

        field = guided(velocity, inputs.guidance, times) if inputs.guidance else velocity
        return euler_integrate(timed_steps(field, stage), inputs.noise, len(times), advance=ttnn.addalpha)

    def warm_up_shapes(self, cameras: int, tokens: int) -> list[tuple[int, int]]:
        """Returns the (cameras, prompt tokens) to run once before it counts: one for each set of kernels that rows need.

        Args:
            cameras: the most that will be present.
            tokens: of the longest prompt.
        """
        prompts = [min(length, tokens) for length in range(TILE, round_up(tokens, TILE) + 1, TILE)]
        return [(present, prompt) for present in range(cameras, 0, -1) for prompt in prompts]

    @property
    def warm_up_rounds(self) -> int:
        """Returns how often each of them is run: with traces once to compile, and once to capture."""
        return 1 if self._traces is None else 2

    def describe(self) -> dict[str, Any]:
        """Returns what runs where: parts, device, precision by role, bytes of weights by part (all of them in DRAM)."""
        backbone = self.backbone
        parts = {
            "vision_tower": backbone.vision_tower,
            "multi_modal_projector": backbone.multi_modal_projector,
            "embed_tokens": backbone.embed_tokens,
            "vlm_layers": [*backbone.vlm_layers, backbone.vlm_last_layer],
            "expert_layers": backbone.expert_layers,
            "suffix_embedding": self.suffix_embedding,
        }
        grid = self.device.compute_with_storage_grid_size()
        return {
            "parts": {
                "backbone": type(backbone).__name__,
                "vision_tower": type(backbone.vision_tower).__name__,
                "multi_modal_projector": type(backbone.multi_modal_projector).__name__,
                "suffix_embedding": type(self.suffix_embedding).__name__,
            },
            "device": {"architecture": self.device.arch().name, "grid": (grid.x, grid.y)},
            "precision": {"preset": self._precision_name, **table(self.precision)},
            "weight_bytes": {name: device_bytes(part) for name, part in parts.items()},
            "programs_refused": dict(self._programs.refused),
            "transfers": {
                "uploads_per_row": UPLOADS_PER_ROW,
                "uploads_per_new_prompt": UPLOADS_PER_CONTEXT,
                "readbacks_per_call": 1,
            },
        }
