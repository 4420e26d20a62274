"""What the tests of `verify` share: a tiny checkpoint on an emulated board, as the checks take it.

This file is imported before `tests/conftest.py` has set up the environment: what reads that is imported later.
"""

import pytest


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    from tests.checkpoints import edit_json, save_lerobot_checkpoint
    from tests.oracle import make_lerobot_policy

    policy = make_lerobot_policy(n_action_steps=5, num_inference_steps=1)
    folder = save_lerobot_checkpoint(policy, tmp_path_factory.mktemp("someones") / "secret-project")
    edit_json(folder / "config.json", architecture="tiny")
    return folder


@pytest.fixture(scope="module")
def policy(board, checkpoint):
    from lerobot_pi0_ttnn import PI0TTNNPolicy

    if board.kind != "emulated":
        pytest.skip("faults are injected into an emulated board")
    policy = PI0TTNNPolicy.from_pretrained(checkpoint, board=board.name, precision="accurate", cache_weights=False)
    yield policy
    policy.close()


@pytest.fixture
def subject(policy, board):
    from lerobot_pi0_ttnn.cli.verify import checks
    from lerobot_pi0_ttnn.cli.verify.findings import Lines
    from tests.oracle import CAMERAS, make_batch

    batch = make_batch(batch=1, cameras=CAMERAS[:2], lengths=[23])
    saved = {}
    subject = checks.Subject(policy, board, [policy._read(batch)], Lines(lambda _: None), saved.__setitem__, 2)
    subject.saved = saved
    yield subject
    policy.model.forget()
