"""What the tests of faults share: a tiny checkpoint with a queue of five actions, and policies of it.

This file is imported before `tests/conftest.py` has set up the environment: what reads that is imported later.
"""

import pytest

from tests.processes import forker as start_forker


@pytest.fixture(scope="session")
def forker():
    """Starts programs in processes of their own."""
    pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")
    return start_forker()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("faults") / "pi0")


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory):
    """Other weights for the same robot."""
    return save_tiny(tmp_path_factory.mktemp("faults") / "other", seed=7)


def save_tiny(folder, seed=0):
    from tests.checkpoints import edit_json, save_lerobot_checkpoint
    from tests.oracle import make_lerobot_policy

    save_lerobot_checkpoint(make_lerobot_policy(n_action_steps=5, seed=seed), folder)
    edit_json(folder / "config.json", architecture="tiny")
    return folder


@pytest.fixture
def load(checkpoint):
    """Loads policies, on the torch backend unless told otherwise, and closes them in the end."""
    from lerobot_pi0_ttnn import PI0TTNNPolicy

    policies = []

    def load(path=checkpoint, **overrides):
        backend = "ttnn" if "board" in overrides else "torch"
        overrides = {"cache_weights": False, "backend": backend, **overrides}
        policies.append(PI0TTNNPolicy.from_pretrained(path, **overrides))
        return policies[-1]

    yield load
    for policy in policies:
        policy.close()
