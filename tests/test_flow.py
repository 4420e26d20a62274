"""Times, their embedding, noise and the Euler loop against numbers worked out by hand and, bitwise, against LeRobot."""

import math

import pytest
import torch
from lerobot.policies.common import flow_matching as lerobot_flow
from lerobot.policies.common.vla_utils import create_sinusoidal_pos_embedding

from lerobot_pi0_ttnn.model.config import PI0_BASE
from lerobot_pi0_ttnn.model.flow import sample_noise, schedule, time_embedding
from tests.oracle import integrate

SHAPE = (2, 50, 32)
STEPS = pytest.mark.parametrize("num_steps", [1, 4, 10])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("num_steps", "want"),
    [
        (1, [1.0]),
        (4, [1.0, 0.75, 0.5, 0.25]),
        (10, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
    ],
)
def test_schedule(num_steps, want):
    assert torch.equal(torch.tensor(schedule(num_steps)), torch.tensor(want))


@STEPS
def test_schedule_is_lerobots(num_steps):
    times = []
    lerobot_flow.euler_integrate(lambda x, time: times.append(time[0]) or x, torch.zeros(1, 1), num_steps)
    assert torch.equal(torch.tensor(schedule(num_steps)), torch.stack(times))


@pytest.mark.parametrize("num_steps", [0, -1])
def test_schedule_needs_a_step(num_steps):
    with pytest.raises(ValueError, match=f"num_steps: expected at least 1, got {num_steps}"):
        schedule(num_steps)


def test_time_embedding_by_hand():
    # Periods 1 and 4: at t = 1 a whole turn and a quarter, at t = 0.5 a half and an eighth. Sines first.
    got = time_embedding([1.0, 0.5], width=4, min_period=1.0, max_period=4.0)
    eighth = math.sqrt(0.5)
    torch.testing.assert_close(got, torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, eighth, -1.0, eighth]]))


def test_time_embedding_is_lerobots():
    config, times = PI0_BASE, schedule(10)
    got = time_embedding(times, config.expert.width, config.min_period, config.max_period)
    for row, time in zip(got, times, strict=True):
        timestep = torch.tensor(time, dtype=torch.float32).expand(2)
        want = create_sinusoidal_pos_embedding(timestep, 1024, 4e-3, 4.0, timestep.device).type(torch.float32)
        assert torch.equal(row.expand(2, -1), want)


@STEPS
def test_constant_velocity_is_integrated_exactly(num_steps):
    noise, velocity = torch.randn(SHAPE, generator=seeded(0)), torch.randn(SHAPE, generator=seeded(1))
    steps = []
    got = integrate(lambda x, step: steps.append(step) or velocity, noise, num_steps)
    torch.testing.assert_close(got, noise - velocity, rtol=0, atol=2e-6)
    assert steps == list(range(num_steps))


@STEPS
def test_euler_is_lerobots(num_steps):
    noise, times = torch.randn(SHAPE, generator=seeded(0)), torch.tensor(schedule(num_steps))
    got = integrate(lambda x, step: torch.sin(x) * times[step], noise, num_steps)
    want = lerobot_flow.euler_integrate(lambda x, time: torch.sin(x) * time[:, None, None], noise, num_steps)
    assert torch.equal(got, want)


def test_euler_leaves_the_noise_alone():
    noise = torch.ones(SHAPE)
    integrate(lambda x, step: x, noise, 4)
    assert torch.equal(noise, torch.ones(SHAPE))


def test_noise_is_lerobots():
    torch.manual_seed(7)
    want = lerobot_flow.sample_noise(SHAPE, "cpu")
    torch.manual_seed(7)
    got = sample_noise(SHAPE)
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


def test_noise_from_a_generator_ignores_the_global_one():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = sample_noise(SHAPE, generator=seeded(7))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(sample_noise(SHAPE, generator=seeded(7)), first)
    assert not torch.equal(sample_noise(SHAPE, generator=seeded(8)), first)
