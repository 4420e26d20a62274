"""One model on several chips: each has all of it, and the rows of a batch are dealt out to them."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ttnn
from torch import Generator, Tensor, cat

from ..flow import sample_noise
from ..latency import Stage, untimed
from ..model_config import PI0ModelConfig
from ..rtc import Guidance, guidance_of
from .model import PI0ModelTTNN
from .trace import Traces
from .weight_cache import WeightCache


class PI0ReplicasTTNN:
    """pi0 on several chips, which know nothing of each other: to whoever asks it is one model.

    A batch of one row is computed by the first chip, no sooner than by a single one. In larger ones row i is chip i's, and
    so on in turn; the chips compute at the same time. The weights are converted once, for the first.

    Args:
        config: sizes of the model.
        weights: all tensors by name, `PI0WeightLoader` or a plain dict.
        devices: open ttnn devices, one for each chip.
        precision: `accurate`, `balanced` or `fast`, see `tt/precision.py`.
        cache: where to keep the converted weights of a checkpoint.
        traces: of each device; None where ops run one by one.

    Attributes:
        models: The whole model of each chip.

    Raises:
        ValueError: with every missing, unexpected and mis-shaped tensor.
    """

    def __init__(
        self,
        config: PI0ModelConfig,
        weights: Mapping[str, Tensor],
        devices: Sequence[ttnn.Device],
        *,
        precision: str = "balanced",
        cache: WeightCache | None = None,
        traces: Sequence[Traces] | None = None,
    ) -> None:
        self.config = config
        each: Sequence[Traces | None] = traces or [None] * len(devices)
        (device, own), *others = zip(devices, each, strict=True)
        first = PI0ModelTTNN(config, weights, device, precision=precision, cache=cache, traces=own)
        self.models = [first] + [
            PI0ModelTTNN(config, weights, device, precision=precision, traces=own, first=first)
            for device, own in others
        ]

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
        generator: Generator | None = None,
        guidance: Guidance[Tensor] | None = None,
        stage: Stage = untimed,
    ) -> Tensor:
        """Returns what `PI0ModelTTNN.sample_actions` does; the arguments are the same.

        A `stage` that waits for the board makes the chips take turns.
        """
        rows = state.shape[0]
        if noise is None:
            noise = sample_noise((rows, self.config.horizon, self.config.action_dim), generator=generator)
        chunks: list[Tensor] = []
        begun: deque[Callable[[], Tensor]] = deque()
        for number in range(rows):
            if len(begun) == len(self.models):
                # The chip whose turn it is; the others go on meanwhile.
                chunks.append(begun.popleft()())
            row = slice(number, number + 1)
            begun.append(
                self.models[number % len(self.models)].begin(
                    [image[row] for image in images],
                    [mask[row] for mask in img_masks],
                    lang_tokens[row],
                    lang_masks[row],
                    state[row],
                    noise=noise[row],
                    num_steps=num_steps,
                    guidance=guidance_of(guidance, row) if guidance else None,
                    stage=stage,
                )
            )
        return cat([*chunks, *(finish() for finish in begun)])

    @property
    def one_by_one(self) -> bool:
        """Whether ops run one by one even where a trace could be replayed, on all chips."""
        return self.models[0].one_by_one

    @one_by_one.setter
    def one_by_one(self, value: bool) -> None:
        for model in self.models:
            model.one_by_one = value

    def warm_up_shapes(self, cameras: int, tokens: int) -> list[tuple[int, int]]:
        """Returns what `PI0ModelTTNN.warm_up_shapes` does: each chip is to run a row of each."""
        return self.models[0].warm_up_shapes(cameras, tokens)

    @property
    def warm_up_rounds(self) -> int:
        """Returns how often each of them is run."""
        return self.models[0].warm_up_rounds

    def describe(self) -> dict[str, Any]:
        """Returns what `PI0ModelTTNN.describe` says of one of the models, and how many of them there are."""
        return {"replicas": len(self.models), **self.models[0].describe()}
