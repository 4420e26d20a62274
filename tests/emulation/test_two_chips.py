"""Both chips of an emulated n300, in a process of their own: values kept apart, rows dealt out, one of them failing.

The judges of the actions are one chip alone, exactly, and this process's own board.
"""

import json

import pytest
import torch

pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
from lerobot_pi0_ttnn.model.config import TINY
from tests.oracle import CAMERAS, make_batch, make_lerobot_policy, make_noise, model_inputs, state_dict
from tests.quality import assert_quality

STEPS = 2


def awkward_rows():
    """Weights, and three rows: prompts of 10, 23 and 40 tokens, two cameras, two others of them, and one."""
    policy = make_lerobot_policy()
    inputs = model_inputs(policy, make_batch(3, cameras=CAMERAS, lengths=(10, 23, 40)))
    masks = [[True, False, True], [True, True, False], [False, False, False]]
    inputs = {**inputs, "img_masks": [torch.tensor(mask) for mask in masks], "noise": make_noise(3)}
    return state_dict(policy), {name: inputs[name] for name in sorted(inputs)}


VALUES = """
import json, torch, ttnn
from lerobot_pi0_ttnn.device.board import open_board

with open_board("emulated:n300x2") as board:
    def up(value, device):
        filled = torch.full((32, 32), float(value))
        return ttnn.from_torch(filled, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device)

    first, second = (up(value, device) for value, device in zip((3, 5), board.devices))
    same_address = first.buffer_address() == second.buffer_address()
    values = [ttnn.to_torch(tensor)[0, 0].item() for tensor in (first, second, ttnn.add(second, second), first)]
    ttnn.deallocate(first)
    values.append(ttnn.to_torch(second)[0, 0].item())
    # A sweep forgets what was freed, and nothing of the other chip.
    board._emulator.memory.sweep()
    values.append(ttnn.to_torch(second)[0, 0].item())
    described = board.describe()
    crowded = up(0, board.devices[1]), up(0, board.devices[1])
    grown = board.describe()["dram_bytes_in_use"] - described["dram_bytes_in_use"]
    with board.shapes_only():
        shaped = [up(0, device).device().id() == device.id() for device in board.devices]
print(json.dumps([same_address, values, described["chips"], grown, shaped]))
"""


def test_two_chips_keep_their_values_apart(run_python):
    same_address, values, chips, grown, shaped = json.loads(run_python(VALUES).splitlines()[-1])
    assert same_address, "otherwise this test proves nothing"
    assert values == [3, 5, 10, 3, 5, 5]
    assert chips == 2
    assert grown > 0, "the fuller chip counts"
    assert shaped == [True, True]


REPLICAS = """
import json, sys, torch, ttnn
from lerobot_pi0_ttnn.model.config import TINY
from lerobot_pi0_ttnn.model.observation import Observation
from lerobot_pi0_ttnn.device.board import BoardError, open_board
from lerobot_pi0_ttnn.ttnn_api.hook import add_layer, remove_layer
from lerobot_pi0_ttnn.ttnn_api.record import READBACKS
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
from lerobot_pi0_ttnn.device.weight_cache import WeightCache
from pathlib import Path
from tests.emulation.test_two_chips import STEPS, awkward_rows

class Watch:
    def __init__(self, devices):
        self.chips = {device.id(): chip for chip, device in enumerate(devices)}
        self.calls, self.dies = [], None

    def __call__(self, call, proceed):
        before = self.chip(call.args)
        if self.dies is not None and before == self.dies:
            raise RuntimeError("Read 0xffffffff over PCIe ID 0: the board should be reset.")
        result = proceed(*call.args, **call.kwargs)
        chip = before if before is not None else self.chip([result])
        self.calls.append((chip, call.name))
        return result

    def chip(self, values):
        for value in values:
            if isinstance(value, (list, tuple)):
                value = value[0] if value else None
            if isinstance(value, ttnn.Tensor) and value.storage_type() == ttnn.StorageType.DEVICE:
                return self.chips[value.device().id()]

    def counts(self, *names):
        return [sum(call == (chip, name) for name in names for call in self.calls) for chip in (0, 1)]

torch.set_num_threads(1)
weights, inputs = awkward_rows()
with open_board("emulated:n300x2") as board:
    watch = Watch(board.devices)
    add_layer(watch)
    cache = WeightCache(Path(sys.argv[2]), {"checkpoint": "tiny"})
    with board.in_use("loading"):
        model = PI0ModelTTNN(TINY, weights, board.devices, precision="accurate", cache=cache)
    loading = {
        "uploads": watch.counts("ttnn.to_device"),
        "copies": watch.counts("ttnn.from_device"),
        "stored": sum(name == "ttnn.dump_tensor" for _, name in watch.calls),
        "converted": sum(call == (None, "ttnn.from_torch") for call in watch.calls),
        "memory": [ttnn.get_memory_view(d, ttnn.BufferType.DRAM).total_bytes_allocated_per_bank for d in board.devices],
        "replicas": model.describe()["replicas"],
    }
    watch.calls.clear()
    with board.in_use("predicting"):
        chunk = model.sample_actions(**inputs, num_steps=STEPS)
    # Chip by chip in the order of the calls, and R where one is waited for.
    order = []
    for chip, name in watch.calls:
        if chip is not None:
            event = f"R{chip}" if name in READBACKS else str(chip)
            order += [event] if event not in order[-1:] else []
    matmuls = watch.counts("ttnn.linear")
    watch.calls.clear()
    with board.in_use("predicting"):
        chips, model.chips = model.chips, model.chips[:1]
        observation, noise = Observation(**{n: x for n, x in inputs.items() if n != "noise"}), inputs["noise"]
        alone = torch.empty_like(chunk)
        for rows in ([0, 2], [1]):
            alone[rows] = model.sample_actions(observation.select(rows), noise=noise[rows], num_steps=STEPS)
        model.chips = chips
    assert watch.counts("ttnn.linear")[1] == 0
    torch.save([chunk, alone], sys.argv[1])
    watch.dies = 1
    said = []
    for _ in range(2):
        try:
            with board.in_use("predicting"):
                model.sample_actions(**inputs, num_steps=STEPS)
        except BoardError as error:
            said.append(str(error))
    remove_layer(watch)
print(json.dumps({"loading": loading, "order": order, "matmuls": matmuls, "said": said, "open": board.is_open}))
"""


class TestReplicas:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        return tmp_path_factory.mktemp("replicas")

    @pytest.fixture(scope="class")
    def seen(self, folder, run_python):
        """What the program in the other process saw."""
        return json.loads(run_python(REPLICAS, [str(folder / "chunk.pt"), str(folder / "cache")]).splitlines()[-1])

    def test_each_chip_s_rows_are_those_of_a_chip_alone(self, seen, folder, board):
        weights, inputs = awkward_rows()
        chunk, alone = torch.load(folder / "chunk.pt")
        assert torch.equal(chunk, alone)
        other = PI0ModelTTNN(TINY, weights, board.device, precision="accurate")
        assert_quality(chunk, other.sample_actions(**inputs, num_steps=STEPS), pcc=0.9999, rel_rmse=0.01)

    def test_both_chips_compute_before_either_is_waited_for(self, seen):
        assert seen["order"] == ["0", "1", "0", "R0", "0", "R1", "R0"], (
            "what is next goes up before a chip is waited for"
        )
        first, second = seen["matmuls"]
        assert first > second > 0

    def test_weights_are_converted_and_kept_once(self, seen):
        loading = seen["loading"]
        count = loading["stored"]
        assert count > 50
        assert loading["converted"] == count
        assert loading["uploads"] == [count, count]
        assert loading["copies"] == [count, 0]
        assert loading["memory"][0] == loading["memory"][1] > 0
        assert loading["replicas"] == 2

    def test_a_chip_that_fails_is_the_board_that_fails(self, seen):
        first, again = seen["said"]
        assert first.startswith("board 'emulated:n300x2' failed while predicting: Read 0xffffffff over PCIe ID 0")
        assert "It is not used again" in again
        assert seen["open"] is False
