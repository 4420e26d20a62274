import pytest
import torch

from .quality import assert_quality

WANT = torch.randn(4, 50, 7, generator=torch.Generator().manual_seed(0))
NAN = WANT.clone()
NAN[0, 0, 0] = float("nan")
INFINITE = WANT.clone()
INFINITE[0, 0, 0] = float("inf")
LIMITS = {"pcc": 0.99, "rel_rmse": 0.1}


def test_identical_passes():
    assert_quality(WANT, WANT.clone(), pcc=1 - 1e-12, rel_rmse=0.0)


def test_small_noise_passes():
    noise = torch.randn(WANT.shape, generator=torch.Generator().manual_seed(1))
    assert_quality(WANT + 0.05 * noise, WANT, **LIMITS)


@pytest.mark.parametrize(
    ("got", "reason"),
    [
        pytest.param(2 * WANT, "relative RMSE", id="scaled"),
        pytest.param(-WANT, "PCC", id="negated"),
        pytest.param(WANT + 1.0, "relative RMSE", id="shifted"),
        pytest.param(torch.full_like(WANT, 0.5), "PCC", id="constant"),
        pytest.param(WANT.roll(1, dims=1), "PCC", id="one-token-off"),
        pytest.param(NAN, "not finite", id="nan"),
        pytest.param(INFINITE, "not finite", id="infinite"),
        pytest.param(WANT[:, :49], "shape", id="too-short"),
        pytest.param(WANT.flatten(), "shape", id="flattened"),
        pytest.param(WANT[:1], "shape", id="would-broadcast"),
    ],
)
def test_wrong_fails(got, reason):
    with pytest.raises(AssertionError, match=reason):
        assert_quality(got, WANT, **LIMITS)


def test_wrong_reference_fails():
    with pytest.raises(AssertionError, match="want: 1 of 1400 not finite"):
        assert_quality(WANT, NAN, **LIMITS)
    with pytest.raises(AssertionError, match="PCC nan"):
        assert_quality(WANT, torch.zeros_like(WANT), **LIMITS)
