"""The suffix: state and noisy actions in, expert tokens out; expert output in, velocity out.

The time enters by an MLP: pi0's reads it beside each action, pi0.5's reads it alone and conditions the expert's norms.

Source: openpi `models/pi0.py::PI0.embed_suffix`. Twin: `tt/suffix.py`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.config import PI0ModelConfig
from ..model.flow import time_embedding
from ..model.tensors import Weights
from .layers import Linear


class SuffixEmbeddingTorch:
    """The small projections around the expert: five, or four without a state. They stay in float32, as in LeRobot.

    Args:
        config: sizes of the model.
        weights: cursor at the root of the checkpoint.
    """

    def __init__(self, config: PI0ModelConfig, weights: Weights) -> None:
        self.config = config
        if config.state_dim:
            self.state_proj = Linear(weights.at("state_proj"), torch.float32, bias=True)
        self.action_in_proj = Linear(weights.at("action_in_proj"), torch.float32, bias=True)
        if config.expert.adaptive_norms:
            self.time_mlp_in = Linear(weights.at("time_mlp_in"), torch.float32, bias=True)
            self.time_mlp_out = Linear(weights.at("time_mlp_out"), torch.float32, bias=True)
        else:
            self.action_time_mlp_in = Linear(weights.at("action_time_mlp_in"), torch.float32, bias=True)
            self.action_time_mlp_out = Linear(weights.at("action_time_mlp_out"), torch.float32, bias=True)
        self.action_out_proj = Linear(weights.at("action_out_proj"), torch.float32, bias=True)

    def embed_state(self, state: Tensor) -> Tensor:
        """Returns the state token, (B, 1, D) float32.

        Args:
            state: (B, state_dim) float32.
        """
        return self.state_proj(state)[:, None, :]

    def time_bias(self, times: Sequence[float]) -> Tensor:
        """Returns (len(times), D) float32: what the time adds to the first layer of pi0's action-time MLP.

        That layer reads [action, time]; its time half does not depend on x_t, so it is a bias for each step.

        Args:
            times: in [0, 1].
        """
        width = self.config.expert.width
        return F.linear(
            self._time_embedding(times), self.action_time_mlp_in.weight[:, width:], self.action_time_mlp_in.bias
        )

    def time_conditions(self, times: Sequence[float]) -> Tensor:
        """Returns (len(times), D) float32: pi0.5's time MLP, of which the norms of an adaptive expert make their modulations.

        Args:
            times: in [0, 1].
        """
        return F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(self._time_embedding(times)))))

    def _time_embedding(self, times: Sequence[float]) -> Tensor:
        config = self.config
        return time_embedding(times, config.expert.width, config.min_period, config.max_period)

    def embed_suffix(self, x_t: Tensor, time_bias: Tensor | None, state: Tensor | None) -> Tensor:
        """Returns the suffix, (B, suffix tokens, D) float32: the state's token, then the actions'.

        Args:
            x_t: (B, horizon, action_dim) float32.
            time_bias: see `embed_actions`.
            state: of `embed_state`; None in pi0.5, whose prompt holds it.
        """
        actions = self.embed_actions(x_t, time_bias)
        return actions if state is None else torch.cat([state, actions], dim=1)

    def embed_actions(self, x_t: Tensor, time_bias: Tensor | None) -> Tensor:
        """Returns the action tokens, (B, horizon, D) float32.

        Args:
            x_t: (B, horizon, action_dim) float32.
            time_bias: (D,) float32, this step's row of `time_bias`; None in pi0.5, whose action tokens have no time in them.
        """
        if time_bias is None:
            return self.action_in_proj(x_t)
        action_half = self.action_time_mlp_in.weight[:, : self.config.expert.width]
        hidden = F.linear(self.action_in_proj(x_t), action_half, time_bias)
        return self.action_time_mlp_out(F.silu(hidden))

    def velocity(self, expert_output: Tensor) -> Tensor:
        """Returns dx/dt, (B, horizon, action_dim) float32.

        Args:
            expert_output: (B, suffix tokens, D) float32, normed.
        """
        return self.action_out_proj(expert_output[:, self.config.state_tokens :])
