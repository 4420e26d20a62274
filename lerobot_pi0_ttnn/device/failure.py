"""What ttnn's errors mean: a call that ttnn refuses leaves the board as it was, any other may have lost it."""

import re

from ..ttnn_api.installed import ttnn_folder, wanted_sfpi

REFUSED = re.compile(
    r"TT_(FATAL|THROW) @ /project/(ttnn/cpp/ttnn/operations/|ttnn/cpp/ttnn-nanobind/pytensor|ttnn/core/tensor/"
    r"|tt_metal/impl/(allocator|tensor)/|tt_metal/common/shape)"
    r"|TT_THROW @ .*\n.*\nStatically allocated (dataflow|circular) buffers"
)
"""How an error begins where ttnn finds a call wrong, or too large for the memory, before it asks the board.

By the file that checks: operations and their program factories, tensors and shapes, the allocator; and the sizes of buffers in
L1. These were seen on emulated boards. TT_FATAL alone says nothing: dispatch, driver and firmware fail by it, too.
"""


BUILD = re.compile(r"Failed to generate binaries for (\S+).*?\n(\w+) build failed\. Log: (.*)", re.DOTALL)
"""What it says where a kernel does not compile: the kernel's name, the processor that it is for, what the compiler printed."""


class KernelBuildError(RuntimeError):
    """A kernel does not compile; the board is as it was. The message names the kernel and the compiler's release."""


class BoardError(RuntimeError):
    """The board failed while it was in use; the message says when, and what to do."""


def is_failure(error: RuntimeError) -> bool:
    """Returns whether an error that was raised while a board was in use puts the board itself in doubt.

    A card that hangs or falls off the bus shows as a RuntimeError of many wordings (`TT_THROW ... TIMEOUT: device timeout`,
    `Read 0xffffffff over PCIe ID 0`, ...): what is not known to be harmless counts.
    """
    return not isinstance(error, (BoardError, KernelBuildError, NotImplementedError)) and not REFUSED.match(str(error))


def build_failure(error: RuntimeError) -> str | None:
    """Returns what is wrong where ttnn cannot build a kernel, and with which compiler it should; None for any other error."""
    found = BUILD.search(str(error))
    if found is None:
        return None
    kernel, processor, log = found.groups()
    printed = log.split("\nbacktrace:")[0].splitlines()
    said = next((line for line in printed if "error" in line), printed[0] if printed else "").strip()
    folder = ttnn_folder()
    release = wanted_sfpi(folder).get("version", "") if folder else ""
    return (
        f"the kernel {kernel} does not compile for {processor}: {said[:300]}. This ttnn wants release {release or 'unknown'} "
        "of the kernel compiler sfpi (https://github.com/tenstorrent/sfpi/releases): `lerobot-pi0-ttnn doctor` says which is "
        "installed. With another one, install that; with that one, report it, and try --policy.programs=stock"
    )


def error_summary(error: Exception) -> str:
    """Returns what an error of ttnn says, on one line: without the place in its source and the backtrace."""
    text = str(error).split("\nbacktrace:")[0].split("\nLocation:")[0]
    text = re.sub(r"^TT_\w+ @ .*?\ninfo:\n", "", text, flags=re.DOTALL)
    return " ".join(text.split()).rstrip(".") or type(error).__name__
