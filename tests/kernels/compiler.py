"""Type-checks kernels as ttnn would have them compiled, by clang, which the package `ziglang` brings, for a RISC-V of 32 bits.

The kernels' own compiler, sfpi, is in no package index. Its additions to C++ are declared in `include/`, as far as ttnn's
headers use them; errors in the types, names and arguments of a kernel show all the same.
"""

import json
import re
import shlex
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

STAND_INS = Path(__file__).parent / "include"

LIBRARY = "libcxx/include", "libcxxabi/include", "include"
OF_THE_C_LIBRARY = "riscv32-linux-musl", "generic-musl", "riscv-linux-any", "any-linux-any"
SITE = (
    "-D_LIBCPP_ABI_VERSION=1",
    "-D_LIBCPP_ABI_NAMESPACE=__1",
    "-D_LIBCPP_HAS_MUSL_LIBC=1",
    "-D_LIBCPP_HAS_THREADS=0",
    "-D_LIBCPP_HAS_MONOTONIC_CLOCK=0",
    "-D_LIBCPP_HARDENING_MODE=_LIBCPP_HARDENING_MODE_NONE",
    "-D_LIBCPP_ASSERTION_SEMANTIC_DEFAULT=_LIBCPP_ASSERTION_SEMANTIC_IGNORE",
)
"""What the C++ library wants to be told of its platform."""


@dataclass(frozen=True)
class Compilation:
    """One kernel for one of the five processors of a core.

    Attributes:
        kernel: the stem of its file.
        processor: `brisc`, `ncrisc`, `trisc0`, ...
        folder: where ttnn has put the headers that it makes for it.
        flags: include paths, definitions, and files that are included first.
        source: ttnn's file that includes the kernel.
    """

    kernel: str
    processor: str
    folder: Path
    flags: tuple[str, ...]
    source: str

    def errors(self, instead: tuple[Path, str] | None = None) -> str:
        """Returns what clang complains of; an empty string where the kernel is right.

        Args:
            instead: a file of those that are read, and its text in place of what is there.
        """
        zig = Path(find_spec("ziglang").origin).parent
        command = [zig / "zig", "clang", "--target=riscv32-unknown-linux-musl", "-march=rv32im", "-mabi=ilp32"]
        command += ["-fsyntax-only", "-w", "-Wno-missing-template-arg-list-after-template-kw", "-nostdinc", *SITE]
        command += [f"-I{STAND_INS}", *self.flags]
        for folder in (*LIBRARY, *(f"libc/include/{name}" for name in OF_THE_C_LIBRARY)):
            command += ["-isystem", zig / "lib" / folder]
        if instead:
            path, text = instead
            (self.folder / "instead.cpp").write_text(text)
            file = {"type": "file", "name": str(path), "external-contents": str(self.folder / "instead.cpp")}
            overlay = self.folder / "overlay.yaml"
            overlay.write_text(json.dumps({"version": 0, "roots": [file]}))
            command += ["-ivfsoverlay", overlay]
        done = subprocess.run([*command, self.source], cwd=self.folder, capture_output=True, text=True, check=False)
        assert bool(done.stderr) == bool(done.returncode), done.stderr
        return done.stderr


def compilations(log: str) -> list[Compilation]:
    """Returns what ttnn has logged of its compilations, TT_METAL_LOG_KERNELS_COMPILE_COMMANDS being set."""
    found = []
    for line in re.findall(r"g\+\+ compile cmd: (.*)", log):
        words = shlex.split(line)
        folder = Path(words[words.index("-o") + 1]).parent
        *_, kernel, _, processor = folder.parts
        flags = [word for word in words if word.startswith(("-I", "-D", "-std="))]
        flags += [part for here, after in pairwise(words) if here == "-include" for part in (here, after)]
        flags += [f"-D{name}=1" for word in words if word.startswith("-mcpu=") for name in macros(word)]
        source = next(word for word in words if word.endswith(".cc"))
        found.append(Compilation(kernel, processor, folder, tuple(flags), source))
    return found


def macros(processor: str) -> list[str]:
    """Returns what sfpi defines for a processor, given as `-mcpu=tt-wh-tensix`."""
    _, chip, *tensix = processor.removeprefix("-mcpu=").split("-")
    return [f"__riscv_xtt{chip}", *(f"__riscv_xtttensix{chip}" for _ in tensix)]
