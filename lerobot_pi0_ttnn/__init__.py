"""pi0 and pi0.5 on Tenstorrent cards, as LeRobot policies.

Importing this package registers the policy types `pi0_ttnn` and `pi05_ttnn` with LeRobot, lets LeRobot read checkpoints'
configs as `config_loading` does, and lets its pipelines find a tokenizer that a checkpoint carries. Models and what they import
load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .configuration_pi0_ttnn import PI0TTNNConfig
from .configuration_pi05_ttnn import PI05TTNNConfig
from .model.config import PI0ModelConfig
from .pipeline_artifacts import install as _install_artifacts

if TYPE_CHECKING:
    from .checkpoint import PI0WeightLoader
    from .device.executor import PI0ModelTTNN
    from .device.executor import PI0ModelTTNN as PI0Model
    from .model.observation import Observation
    from .modeling_pi0_ttnn import PI0TTNNPolicy
    from .modeling_pi05_ttnn import PI05TTNNPolicy
    from .policy_loading import load_policy
    from .reference import PI0ModelTorch

__all__ = [
    "Observation",
    "PI0Model",
    "PI0ModelConfig",
    "PI0ModelTTNN",
    "PI0ModelTorch",
    "PI0TTNNConfig",
    "PI0TTNNPolicy",
    "PI0WeightLoader",
    "PI05TTNNConfig",
    "PI05TTNNPolicy",
    "load_policy",
]

_LAZY = {
    "Observation": (".model.observation", "Observation"),
    "PI0Model": (".device.executor", "PI0ModelTTNN"),  # TTNN is the default, torch is asked for by name
    "PI0ModelTTNN": (".device.executor", "PI0ModelTTNN"),
    "PI0ModelTorch": (".reference", "PI0ModelTorch"),
    "PI0TTNNPolicy": (".modeling_pi0_ttnn", "PI0TTNNPolicy"),
    "PI0WeightLoader": (".checkpoint", "PI0WeightLoader"),
    "PI05TTNNPolicy": (".modeling_pi05_ttnn", "PI05TTNNPolicy"),
    "load_policy": (".policy_loading", "load_policy"),
}


import_module(".config_loading", __name__)
_install_artifacts()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    if module.startswith(".device."):
        import_module(".device.board", __name__).require_ttnn()
    return getattr(import_module(module, __name__), attribute)
