"""Each operation of a chunk on its own, by a clock of ours: what is slow is named, what it would save comes first."""

import json
from contextlib import contextmanager

import pytest

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.analysis.cost import cost, machine  # noqa: E402
from lerobot_pi0_ttnn.analysis.graph import captured  # noqa: E402
from lerobot_pi0_ttnn.analysis.sustained import sustain  # noqa: E402
from lerobot_pi0_ttnn.analysis.timing import REPEATS, distinct, time_operations  # noqa: E402
from lerobot_pi0_ttnn.cli.verify import times  # noqa: E402
from lerobot_pi0_ttnn.cli.verify.report import make_report, write_report  # noqa: E402
from lerobot_pi0_ttnn.model.sampling import denoise  # noqa: E402
from lerobot_pi0_ttnn.ttnn_api.hook import add_layer, remove_layer  # noqa: E402
