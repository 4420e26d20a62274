"""The installed ttnn: how to install it, where it is, and which kernel compiler it wants. Nothing here imports it."""

import importlib.util
import re
from pathlib import Path

PIP_INSTALLS = (
    'pip install loguru graphviz "pandas>=2.0.3,<3" seaborn ml_dtypes networkx pyyaml click',
    'pip install --no-deps "ttnn>=0.81,<0.82"',
)
"""In this order: pip knows no overrides, and ttnn declares numpy<2. With uv, `uv sync` does it all."""

SFPI_TABLE = Path("tt_metal/sfpi-version")


def ttnn_folder() -> Path | None:
    """Returns the folder of the installed package; None where there is none."""
    spec = importlib.util.find_spec("ttnn")
    return Path(spec.origin).parent if spec and spec.origin else None


def wanted_sfpi(root: Path) -> dict[str, str]:
    """Returns `version` and `build` of the kernel compiler that ttnn's version table names, those of them that it does name.

    Args:
        root: ttnn's folder, or another runtime root.
    """
    table = root / SFPI_TABLE
    text = table.read_text() if table.is_file() else ""
    return dict(re.findall(r"^sfpi_(version|build)\s*=\s*['\"]?([\w.]+)", text, re.MULTILINE))
