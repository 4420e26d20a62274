"""Constants of the cost model fitted to measured operations: known ones come back, and predictions with them."""

import json
import random
from dataclasses import replace

import pytest

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.analysis.calibration import (  # noqa: E402
    calibrate,
    constants_of,
    read_calibration,
    with_constants,
)
from lerobot_pi0_ttnn.analysis.cost import cost, machine  # noqa: E402
from lerobot_pi0_ttnn.analysis.report import NEW_PROMPT, dispatched, made_up_weights  # noqa: E402
from lerobot_pi0_ttnn.analysis.timing import distinct  # noqa: E402
from lerobot_pi0_ttnn.cli import main  # noqa: E402
from lerobot_pi0_ttnn.config_loading import CONFIGS  # noqa: E402


@pytest.fixture(scope="module")
def on(board):
    return machine(board.describe())


@pytest.fixture(scope="module")
def arch(board):
    return board.describe()["arch"]


@pytest.fixture(scope="module")
def operations(board):
    """The distinct operations of pi0_base, from its shapes."""
    if board.kind != "emulated":
        pytest.skip("walks pi0_base on an emulated board")
    config = CONFIGS["pi0"]().model_config()
    stages = dispatched(config, made_up_weights(config), board, precision="balanced", cameras=2, tokens=12)
    del stages[NEW_PROMPT]
    found = {distinct(operation): operation for stage in stages.values() for operation in stage.operations}
    return list(found.values())


def another(on, seed):
    """A chip whose every constant is another, by up to 40 %, as a card's may be."""
    draw = random.Random(seed)
    constants = {name: value * draw.uniform(0.7, 1.4) for name, value in constants_of(on.chip).items()}
    return replace(on, chip=with_constants(on.chip, constants)), constants


def test_constants_are_all_numbers_of_a_chip_that_were_measured(on):
    names = constants_of(on.chip)
    assert {"start", "matmul.HiFi2", "dram.BFLOAT8_B", "read"} <= set(names)
    assert not {"clock", "dram_bank", "gap", "host"} & set(names)
    other = with_constants(on.chip, {"start": 9.0, "matmul.HiFi2": 0.25})
    assert (other.start, other.matmul["HiFi2"], other.matmul["LoFi"]) == (9.0, 0.25, on.chip.matmul["LoFi"])


@pytest.mark.parametrize("seed", range(2))
def test_known_constants_are_recovered(operations, on, arch, seed):
    """Those that are called measured to 2 %, and what a chunk takes."""
    true, constants = another(on, seed)
    measured = [([operation], cost(operation, true).seconds) for operation in operations]
    found = calibrate(measured, on, arch)
    assert {"read", "dram.BFLOAT8_B"} <= set(found.measured)
    assert len(found.measured) >= 5
    assert {name: found.constants[name] / constants[name] for name in found.measured} == pytest.approx(
        dict.fromkeys(found.measured, 1.0), rel=0.02
    )
    took, before, after = (
        sum(cost(operation, each).seconds for operation in operations) for each in (true, on, found.applied(on, arch))
    )
    assert after == pytest.approx(took, rel=0.005)
    assert before != pytest.approx(took, rel=0.005)
    assert found.after < 0.01 < found.before


def test_noise_and_an_operation_that_is_slow_for_its_own_reasons(operations, on, arch):
    """Of 1 % each, and ten times what the chip takes."""
    true, constants = another(on, 1)
    draw = random.Random(0)
    measured = [([operation], cost(operation, true).seconds * draw.gauss(1, 0.01)) for operation in operations]
    slow = next(number for number, operation in enumerate(operations) if operation.name == "LayerNorm")
    measured[slow] = (measured[slow][0], 10 * measured[slow][1])
    found = calibrate(measured, on, arch)
    assert {"start", "dram.BFLOAT8_B"} <= set(found.measured)
    for name in ("start", "dram.BFLOAT8_B"):
        assert found.constants[name] == pytest.approx(constants[name], rel=0.03)


def test_what_is_not_measured_stays(on, arch, operations):
    """Of norms alone no matmul's efficiency follows."""
    norms = [operation for operation in operations if operation.name == "LayerNorm"]
    found = calibrate([([norm], 1.1 * cost(norm, on).seconds) for norm in norms], on, arch)
    assert "matmul.HiFi2" not in found.measured
    assert "matmul.HiFi2" not in found.constants


def test_nothing_measured(on, arch, operations):
    with pytest.raises(ValueError, match="got none"):
        calibrate([], on, arch)
    with pytest.raises(ValueError, match="took none"):
        calibrate([(operations[:1], 0.0)], on, arch)


class TestFile:
    @pytest.fixture
    def file(self, operations, on, arch, tmp_path):
        """Of a chip whose programs take twice as long to start."""
        true = replace(on, chip=replace(on.chip, start=2 * on.chip.start))
        found = calibrate([([each], cost(each, true).seconds) for each in operations], on, arch, about={"board": "0"})
        path = tmp_path / "calibration.json"
        path.write_text(json.dumps(found.as_json()))
        return path

    def predicted(self, board, capsys, *arguments):
        command = ["bench", "--predict", "--board", board.name.removeprefix("emulated:"), *arguments]
        status = main(command)
        printed = capsys.readouterr()
        return status, printed

    def test_bench_predicts_by_it(self, file, board, on, capsys):
        _, plain = self.predicted(board, capsys)
        status, printed = self.predicted(board, capsys, "--calibration", str(file))
        assert status == 0
        before, after = (json.loads(text.out.splitlines()[-1]) for text in (plain, printed))
        assert "By constants that `verify` measured on a card (" in printed.out
        assert "start" in after["calibration"]["measured"]
        longer = after["prediction"]["total"]["ms"] - before["prediction"]["total"]["ms"]
        count = after["prediction"]["total"]["operations"]
        assert longer == pytest.approx(count * on.chip.start * 1e-3, rel=0.02)

    def test_of_another_architecture(self, file, board, arch, capsys):
        values = json.loads(file.read_text())
        file.write_text(json.dumps(values | {"arch": "quasar"}))
        status, printed = self.predicted(board, capsys, "--calibration", str(file))
        assert status == 1
        assert f"expected one of {arch}, got one of quasar" in printed.err

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"format": 2}, "expected format 1, got 2"),
            ({"constants": {"start": -1.0}}, "positive numbers, got start -1.0"),
            ({"constants": {"warp": 1.0}}, "no constant warp"),
            ({"constants": None}, "NoneType"),
        ],
    )
    def test_that_is_none(self, file, board, capsys, change, said):
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        status, printed = self.predicted(board, capsys, "--calibration", str(file))
        assert status == 1
        assert said in printed.err

    def test_without_a_file(self, tmp_path, board, capsys):
        status, printed = self.predicted(board, capsys, "--calibration", str(tmp_path / "none.json"))
        assert (status, "no such file" in printed.err) == (1, True)
        assert main(["bench", "somewhere", "--calibration", str(tmp_path / "none.json")]) == 1
        assert "--calibration: for --predict" in capsys.readouterr().err

    def test_read_again(self, file):
        assert read_calibration(file).about == {"board": "0"}
