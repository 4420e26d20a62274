"""A strip of pictures of each video: what a run looked like, for a page that shows no videos."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

PICTURES = 6
SIDE = 200
"""Pixels of each picture."""


def draw_strip(videos: Mapping[str, Path], output: Path) -> None:
    """Writes a PNG with a row for each video: pictures at equal distances, first and last included, under a title.

    Args:
        videos: title -> file.
        output: the picture's file.
    """
    import imageio.v3 as imageio
    from matplotlib.figure import Figure

    figure = Figure(figsize=(PICTURES * SIDE / 100, len(videos) * (SIDE / 100 + 0.3)), dpi=100, layout="constrained")
    rows = figure.subplots(len(videos), PICTURES, squeeze=False)
    for (title, video), row in zip(videos.items(), rows, strict=True):
        frames = imageio.imread(video)
        for panel, number in zip(row, np.linspace(0, len(frames) - 1, PICTURES).round().astype(int), strict=True):
            panel.imshow(frames[number])
            panel.axis("off")
        row[0].set_title(title, loc="left", fontsize=10)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
