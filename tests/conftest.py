"""What the tests share: LeRobot's tiny pi0, the twin with its weights, and inputs in which every row is awkward."""

import pytest
import torch
from lerobot.policies.pi0.modeling_pi0 import PI0Policy

from lerobot_pi0_ttnn.model_config import TINY
from lerobot_pi0_ttnn.reference import PI0ModelTorch

from .oracle import CAMERAS, ModelInputs, make_batch, make_lerobot_policy, model_inputs, state_dict

torch.set_num_threads(1)  # tiny matmuls lose more by handing work to threads than they gain


@pytest.fixture(scope="session")
def policy() -> PI0Policy:
    """LeRobot's policy, the judge."""
    return make_lerobot_policy().requires_grad_(False)


@pytest.fixture(scope="session")
def twin(policy: PI0Policy) -> PI0ModelTorch:
    """Our float32 model with the policy's weights."""
    return PI0ModelTorch(TINY, state_dict(policy))


@pytest.fixture(scope="session")
def inputs(policy: PI0Policy) -> ModelInputs:
    """Two rows that differ: prompts of 10 and 23 of 48 tokens, the first camera in none, the second in one.

    LeRobot itself puts absent cameras last. The images of absent ones are noise here: whoever looks at them is seen.
    """
    inputs = model_inputs(policy, make_batch(cameras=CAMERAS))
    masks = [[False, False], [True, False], [True, True]]
    return {**inputs, "img_masks": [torch.tensor(mask) for mask in masks]}
