"""A stand-in for ttnn's kernel compiler, for devices on which no kernel ever runs."""

from __future__ import annotations

import stat
import struct
from pathlib import Path

_KERNEL_ADDRESS = 0x8000
_RETURN = 0x00008067

_SCRIPT = """\
#!/bin/sh
# Stand-in kernel compiler of an emulated board: every kernel is a single `ret`, and none is ever run.
for argument; do
    if [ "$argument" = --version ]; then
        echo "riscv-tt-elf-g++ (tenstorrent/sfpi:{version}[{build}]) 15.1.0"
        exit
    fi
done
while [ $# -gt 0 ]; do
    case "$1" in
        -o) output=$2 ;;
        -MF) dependencies=$2 ;;
    esac
    shift
done
if [ -n "$dependencies" ]; then echo "$output:" > "$dependencies"; fi
case "${{output##*/}}" in
    *.elf*) cat "${{0%/*}}/kernel.elf" > "$output" ;;
    *) : > "$output" ;;
esac
"""


def install_compiler(folder: Path, *, version: str, build: str) -> None:
    """Writes `riscv-tt-elf-g++` into `folder`. ttnn asks for its version; if that agrees, it takes its own firmware."""
    folder.mkdir(parents=True)
    (folder / "kernel.elf").write_bytes(kernel_elf())
    compiler = folder / "riscv-tt-elf-g++"
    compiler.write_text(_SCRIPT.format(version=version, build=build))
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)


def kernel_elf() -> bytes:
    """Returns the smallest RISC-V executable that ttnn's loader accepts: one loaded segment, symbols, relocations."""
    names = b"\0.text\0.rela.text\0.symtab\0.strtab\0.shstrtab\0"
    text, text_size = 96, 16
    symbols, strings = text + text_size, text + text_size + 16
    section_names = strings + 4
    section_headers = (section_names + len(names) + 3) // 4 * 4

    def section(name: bytes, *fields: int) -> bytes:
        return struct.pack("<10I", names.index(b"\0" + name + b"\0") + 1, *fields)

    # Fields: type, flags, address, offset, size, link, info, alignment, entry size.
    sections = [
        bytes(40),
        section(b".text", 1, 6, _KERNEL_ADDRESS, text, text_size, 0, 0, 16, 0),
        section(b".rela.text", 4, 0x40, 0, symbols, 0, 3, 1, 4, 12),
        section(b".symtab", 2, 0, 0, symbols, 16, 4, 1, 4, 16),
        section(b".strtab", 3, 0, 0, strings, 1, 0, 0, 1, 0),
        section(b".shstrtab", 3, 0, 0, section_names, len(names), 0, 0, 1, 0),
    ]
    image = bytearray(section_headers)
    identity = b"\x7fELF\1\1\1" + bytes(9)
    header = struct.pack(
        "<2H5I6H", 2, 243, 1, _KERNEL_ADDRESS, 52, section_headers, 0, 52, 32, 1, 40, len(sections), len(sections) - 1
    )
    image[:52] = identity + header
    image[52:84] = struct.pack("<8I", 1, text, _KERNEL_ADDRESS, _KERNEL_ADDRESS, text_size, text_size, 5, 16)
    image[text : text + text_size] = struct.pack("<4I", *[_RETURN] * 4)
    image[section_names : section_names + len(names)] = names
    return bytes(image) + b"".join(sections)
