"""The suffix: state and noisy actions in, expert tokens out; expert output in, velocity out.

The time enters by an MLP: pi0's reads it beside each action, pi0.5's reads it alone and conditions the expert's norms.

Source: openpi `models/pi0.py::PI0.embed_suffix`. Twin: `reference/suffix.py`.
"""

from collections.abc import Sequence

import torch.nn.functional as F
import ttnn
from torch import Tensor

from ..model.config import PI0ModelConfig
from ..model.flow import time_embedding
from .layers import Linear, RMSNorm, pad_columns, pad_rows
from .precision import OpPrecision
from .program import TILE, round_up
from .weights import DeviceWeights, to_device

TIME_MLP = ("time_mlp_in", "time_mlp_out")


class SuffixEmbeddingTTNN:
    """The small projections around the expert. Two of pi0's become one matmul, and its time a bias.

    State and actions come padded with zeros to whole tiles.

    Args:
        config: sizes of the model.
        weights: cursor at the root of the checkpoint.
        norm: the expert's last norm, whose output `velocity` reads.
        precision: of the matmuls.
        stream: dtype of the expert's residual stream.
    """

    def __init__(
        self,
        config: PI0ModelConfig,
        weights: DeviceWeights,
        norm: RMSNorm,
        precision: OpPrecision,
        stream: ttnn.DataType,
    ) -> None:
        self.config = config
        self.precision = precision
        self.device = weights.device
        self.programs = weights.programs
        width, actions = config.expert.width, round_up(config.action_dim, TILE)
        if config.state_dim:
            self.state_proj = Linear(
                weights,
                "state_proj",
                lambda: pad_columns(weights.take("state_proj.weight"), round_up(config.state_dim, TILE)),
                lambda: weights.take("state_proj.bias"),
                precision,
                output=stream,
            )
        self.action_out_proj = Linear(
            weights,
            "action_out_proj",
            lambda: pad_rows(weights.take("action_out_proj.weight"), actions),
            lambda: pad_columns(weights.take("action_out_proj.bias"), actions),
            precision,
            reads=norm.modulation,
        )
        if config.expert.adaptive_norms:
            self.time_mlp = [(weights.take(f"{name}.weight"), weights.take(f"{name}.bias")) for name in TIME_MLP]
            self.action_in_proj = Linear(
                weights,
                "action_in_proj",
                lambda: pad_columns(weights.take("action_in_proj.weight"), actions),
                lambda: weights.take("action_in_proj.bias"),
                precision,
                output=stream,
            )
            return

        # action_time_mlp_in reads [action_in_proj(x_t), time]: its action half follows a linear: one matrix.
        mlp_weight = weights.take("action_time_mlp_in.weight")
        action_half, self.time_half = mlp_weight[:, :width], mlp_weight[:, width:].clone()
        self.constant_bias = action_half @ weights.take("action_in_proj.bias") + weights.take("action_time_mlp_in.bias")

        def composed() -> Tensor:
            product = action_half.double() @ weights.take("action_in_proj.weight").double()
            return pad_columns(product.float(), actions)

        self.action_in_time_mlp_in = Linear(
            weights, "action_in_time_mlp_in", composed, None, precision, activation=ttnn.UnaryOpType.SILU
        )
        self.action_time_mlp_out = Linear(
            weights,
            "action_time_mlp_out",
            lambda: weights.take("action_time_mlp_out.weight"),
            lambda: weights.take("action_time_mlp_out.bias"),
            precision,
            output=stream,
        )

    def embed_state(self, state: ttnn.Tensor) -> ttnn.Tensor:
        """Returns the state's token where the suffix has it, (1, 1, B * T, D) in shards; the other rows count nowhere.

        Args:
            state: (1, 1, B * T, state_dim) float32, each state in the first of T rows.
        """
        return self.state_proj(state, memory=self._stream(state))

    def _stream(self, tokens: ttnn.Tensor) -> ttnn.MemoryConfig:
        """Returns where the expert's residual stream of so many tokens is kept, and with it all that is made of it."""
        return self.programs.in_shards(tokens.padded_shape[-2], self.config.expert.width)

    def time_bias(self, times: Sequence[float]) -> list[ttnn.Tensor]:
        """Returns for each time (1, D) float32, newly allocated: what it adds to the first layer of the action-time MLP.

        Args:
            times: in [0, 1].
        """
        rows = F.linear(self._time_embedding(times), self.time_half, self.constant_bias)
        return [to_device(row[None, :], self.precision.activations, self.device) for row in rows]

    def time_conditions(self, times: Sequence[float]) -> Tensor:
        """Returns (len(times), D) float32 on the host: pi0.5's time MLP, of which adaptive norms make their modulations.

        Args:
            times: in [0, 1].
        """
        conditions = self._time_embedding(times)
        for weight, bias in self.time_mlp:
            conditions = F.silu(F.linear(conditions, weight, bias))
        return conditions

    def _time_embedding(self, times: Sequence[float]) -> Tensor:
        config = self.config
        return time_embedding(times, config.expert.width, config.min_period, config.max_period)

    def embed_suffix(
        self,
        x_t: ttnn.Tensor,
        time_bias: ttnn.Tensor | None,
        state: ttnn.Tensor | None,
        is_action: ttnn.Tensor | None,
    ) -> ttnn.Tensor:
        """Returns the suffix, (1, 1, B * T, D) in shards: the state's token, then the actions'.

        Args:
            x_t: (1, 1, B * T, action_dim) float32; its first row of each T is the state's, and counts nowhere.
            time_bias: see `embed_actions`.
            state: of `embed_state`; None in pi0.5, whose prompt holds it.
            is_action: see `Context`.
        """
        actions = self.embed_actions(x_t, time_bias)
        return actions if state is None else ttnn.where(is_action, actions, state, memory_config=self._stream(x_t))

    def embed_actions(self, x_t: ttnn.Tensor, time_bias: ttnn.Tensor | None) -> ttnn.Tensor:
        """Returns the tokens of all rows, as if each were an action, (1, 1, B * T, D) in shards.

        Args:
            x_t: (1, 1, B * T, action_dim) float32.
            time_bias: this step's of `time_bias`; None in pi0.5, whose action tokens have no time in them.
        """
        if time_bias is None:
            return self.action_in_proj(x_t, memory=self._stream(x_t))
        hidden = self.action_in_time_mlp_in(x_t, time_bias, memory=ttnn.L1_MEMORY_CONFIG)
        return self.action_time_mlp_out(hidden, memory=self._stream(x_t))

    def velocity(self, expert_output: ttnn.Tensor) -> ttnn.Tensor:
        """Returns dx/dt, (1, 1, B * T, action_dim) float32, of the state's row as well, where it counts nowhere.

        Args:
            expert_output: (1, 1, B * T, D), normed, without a scale that is folded.
        """
        return self.action_out_proj(expert_output, memory=ttnn.DRAM_MEMORY_CONFIG)
