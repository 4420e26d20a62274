"""Our own kernels, type-checked against the headers in ttnn's wheel for both architectures: an emulated board runs none.

An emulated board says what ttnn would compile: which kernels with which arguments, and the headers that it makes for each.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.tt.ops import PROGRAMS

from .compiler import compilations

OURS = {path.stem: path for program in PROGRAMS for path in sorted(program.kernels.glob("*.cpp"))}

COMPILES = """
import shutil, sys, ttnn
from lerobot_pi0_ttnn.emulation import session
from lerobot_pi0_ttnn.model.config import TINY
from lerobot_pi0_ttnn.device.board import open_board
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
from lerobot_pi0_ttnn.tt.ops.group_matmul import GroupMatmulPlan, group_matmul
from tests.oracle import make_noise
from tests.parity.tt import random_inputs, random_weights

with open_board(sys.argv[1]) as board:
    model = PI0ModelTTNN(TINY, random_weights(TINY), board.device)
    model.sample_actions(**random_inputs(TINY, 2, 23), noise=make_noise(1), num_steps=1)
    # No matmul of the tiny model is worth it.
    plan = GroupMatmulPlan(rows=3, inner=4, columns=4, groups=2, grid=(2, 1), block=2)
    shapes = (96, 128), (128, 128), (96, 128)
    x, weight, stream = (ttnn.zeros(shape, ttnn.bfloat16, ttnn.TILE_LAYOUT, board.device) for shape in shapes)
    to = {"output": ttnn.bfloat16, "memory": ttnn.L1_MEMORY_CONFIG}
    group_matmul(x, weight, plan, ttnn.MathFidelity.HiFi2, stream=stream, **to)
root = session._session.root.path
shutil.copytree(root / "scratch", sys.argv[2], symlinks=True)
print("root", root)
"""


@pytest.fixture(scope="module", params=["n150", "p150"])
def compiled(request, run_python, tmp_path_factory):
    """What ttnn compiles of ours for the tiny model and one more program on a board, by file."""
    copy = tmp_path_factory.mktemp("kernels") / "scratch"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TT_METAL_LOG_KERNELS_COMPILE_COMMANDS", "1")
        patch.setenv("TT_METAL_LOGGER_LEVEL", "info")
        log = run_python(COMPILES, [f"emulated:{request.param}", copy])
    root = re.search("^root (.*)", log, re.MULTILINE).group(1)
    log = log.replace(f"{root}/scratch", str(copy)).replace(root, str(Path(find_spec("ttnn").origin).parent))
    found = {path: [] for path in OURS.values()}
    for compilation in compilations(log):
        if path := OURS.get(compilation.kernel):
            found[path].append(compilation)
    return found


def test_every_kernel(compiled):
    """Each is one that runs."""
    assert {path.stem for path, of_it in compiled.items() if not of_it} == set(), "nothing runs these"
    for path, of_it in compiled.items():
        processors = {"brisc"}, {"ncrisc"}, {"brisc", "ncrisc"}, {"trisc0", "trisc1", "trisc2"}
        assert {compilation.processor for compilation in of_it} in processors
        for compilation in of_it:
            assert compilation.errors() == "", f"{path.name} for {compilation.processor}"


@pytest.mark.parametrize(
    ("name", "written", "instead", "complaint"),
    [
        pytest.param("split_heads_compute", None, "Nonsense.", "unknown type name 'Nonsense'", id="nonsense"),
        pytest.param(
            "split_heads_compute",
            "mul_tiles(x_cb, cos_cb, 0, 0, 0)",
            "mul_tiles(x_cb, cos_cb, 0, 0)",
            "no matching function for call to 'mul_tiles'",
            id="an-argument-is-missing",
        ),
        pytest.param(
            "split_heads_writer",
            "noc.async_write(tile, queries, bytes, {}, ",
            "noc.async_write(tile, queries, bytes, ",
            "no matching member function for call to 'async_write'",
            id="of-a-transfer",
        ),
        pytest.param(
            "split_heads_reader",
            "api/core_local_mem.h",
            "api/core_memory.h",
            "'api/core_memory.h' file not found",
            id="header",
        ),
    ],
)
def test_a_wrong_kernel_is_seen(compiled, name, written, instead, complaint):
    path = OURS[name]
    text = path.read_text()
    assert written is None or written in text
    wrong = text.replace(written, instead) if written else instead
    assert complaint in "".join(compilation.errors((path, wrong)) for compilation in compiled[path][:2])
