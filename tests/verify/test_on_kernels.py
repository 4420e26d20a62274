"""What `verify` finds where kernels really run: on a card, or on the simulator in fast dispatch (`--board auto`)."""

import importlib
import shutil
from dataclasses import replace

import pytest

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn import PI0TTNNConfig, PI0TTNNPolicy  # noqa: E402
from lerobot_pi0_ttnn.analysis.behaviour import make_cases  # noqa: E402
from lerobot_pi0_ttnn.analysis.cost import machine  # noqa: E402
from lerobot_pi0_ttnn.analysis.timing import time_operations  # noqa: E402
from lerobot_pi0_ttnn.cli.verify import checks  # noqa: E402
from lerobot_pi0_ttnn.cli.verify.findings import Lines  # noqa: E402
from lerobot_pi0_ttnn.device.trace import Traces  # noqa: E402
from tests.oracle import CAMERAS, make_batch, make_lerobot_policy, state_dict  # noqa: E402

module = importlib.import_module(
    "lerobot_pi0_ttnn.tt.ops.heads.split_heads"
)  # the package has the function by that name


@pytest.fixture(scope="module")
def policy(board):
    if board.kind == "emulated":
        pytest.skip("real kernels")
    lerobot = make_lerobot_policy(num_inference_steps=1)
    features = {"input_features": lerobot.config.input_features, "output_features": lerobot.config.output_features}
    config = PI0TTNNConfig(
        architecture="tiny", board=board.name, precision="accurate", num_inference_steps=1, **features
    )
    policy = PI0TTNNPolicy(config, state_dict(lerobot))
    yield policy
    policy.close()


@pytest.fixture
def subject(policy, board):
    saved = {}
    batch = make_batch(batch=1, cameras=CAMERAS[:1], lengths=[23])
    subject = checks.Subject(policy, board, [policy._read(batch)], Lines(print), saved.__setitem__, 2)
    subject.saved = saved
    yield subject
    policy.model.forget()


def test_our_kernel_wrong_in_one_tile(subject, tmp_path, monkeypatch):
    """The second head's first tile is rotated by the sines in place of the cosines; nothing else is wrong."""
    kernels = shutil.copytree(module.SPLIT_HEADS.kernels, tmp_path / "kernels")
    reader = kernels / "split_heads_reader.cpp"
    right = "noc.async_read(cos, CoreLocalMem<uint32_t>(cos_to)"
    sines = f"{right.replace('(cos,', '(sin,')}, table_bytes, {{.page_id = 0}}, {{}});"
    wrong = f"if (unit == 1 && column == 0) {{ {sines} }} else {right}"
    text = reader.read_text()
    assert text.count(right) == 1
    reader.write_text(text.replace(right, wrong))
    monkeypatch.setattr(module, "SPLIT_HEADS", replace(module.SPLIT_HEADS, kernels=kernels))
    module._program.cache_clear()
    try:
        checks.check_operations(subject)
    finally:
        module._program.cache_clear()
    found = [line for line in subject.lines.failed if line.kind]
    assert found
    assert all("split_heads" in line.what for line in found), "and no operation of ttnn's"
    first = found[0]
    assert first.kind in ("outlier", "deviation")
    assert {"got", "want"} <= set(subject.saved["first of operations"])
    got, want = (subject.saved["first of operations"][name] for name in ("got", "want"))
    limit = 0.2 * want.std()
    tiles = {tuple(index // 32 for index in where[-2:]) for where in ((got - want).abs() > limit).nonzero().tolist()}
    assert tiles == {(0, 0)}


def test_a_trace_over_a_buffer_that_was_moved(subject, board, monkeypatch):
    """It replays on the inputs of its capture."""
    if board.traces is None:
        pytest.skip(str(board.why_no_trace))
    capture = Traces._capture

    def moved(traces, entry, compute):
        capture(traces, entry, compute)
        kept.append(entry.inputs)
        entry.inputs = entry.inputs.moved(ttnn.clone)

    kept = []
    cases = make_cases(subject.observations[0], subject.noise())
    cases = {name: cases[name] for name in ("given", "other inputs")}
    subject.model.eager = True
    want = {name: case.ask(subject.model) for name, case in cases.items()}
    subject.model.eager = False
    monkeypatch.setattr(Traces, "_capture", moved)
    found = checks.in_turn(subject.model, cases, want, "traced", is_brief=True)
    subject.model.forget()
    assert found.kind == "trace"


def test_each_operation_can_be_timed(subject, board):
    """By short traces; how long they take on a simulator says nothing."""
    if board.traces is None:
        pytest.skip(str(board.why_no_trace))
    before = board.describe()["dram_bytes_in_use"]
    timed = time_operations(
        subject.model, subject.observations[0], subject.noise(), machine(board.describe()), repeats=1
    )
    assert {"Matmul", "SDPA", "LayerNorm", "GenericOp"} <= {each.operations[0].name for each in timed}
    assert board.describe()["dram_bytes_in_use"] <= before
