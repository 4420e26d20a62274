"""The models that tests take by parameter, under the names of LeRobot's policy types, as small as the tests want them."""

import pytest

from lerobot_pi0_ttnn.model.config import TINY, TINY_PI05, PI0ModelConfig

MODELS: dict[str, PI0ModelConfig] = {"pi0": TINY, "pi05": TINY_PI05}
ON_TTNN = {"pi0", "pi05"}
"""Those that the ttnn backend runs."""


def of_each(backend: str) -> list:
    """The models as parameters of a test that runs on a backend."""
    skip = pytest.mark.skip(reason="the ttnn backend does not run it yet")
    return [
        pytest.param(name, marks=[] if backend == "torch" or name in ON_TTNN else [skip], id=f"{name}-{backend}")
        for name in MODELS
    ]
