"""A camera's frame to the square that the model takes, on one core: bit for bit LeRobot's, in less time."""

import threading
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLACK = -1.0
"""As the model sees it: around an image that is not square, and every pixel of an absent camera, as LeRobot has it."""


class Resizer:
    """Scales frames to fit into a square. Source: openpi `shared/image_tools.py::resize_with_pad_torch`.

    It keeps one copy of a frame for each thread that calls it, to write the next one there: new memory costs as much as the
    copy itself.

    Args:
        size: height and width of the square.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept = threading.local()

    def __call__(self, image: Tensor) -> tuple[Tensor, float, float]:
        """Returns the image in [-1, 1], scaled and centred on black, and the extremes of the scaled image in [0, 1].

        (B, 3, size, size) float32, in memory of its own. Extremes are those before it is clamped; an image of that size is not
        clamped. Bit for bit what LeRobot's `PI0Policy._preprocess_images` makes.

        Args:
            image: (B, 3, H, W) or (B, H, W, 3) on the CPU, floating point in [0, 1] or uint8.
        """
        size, image = self.size, image if image.shape[1] == 3 else image.movedim(-1, 1)
        height, width = image.shape[2:]
        if height == width == size:
            image = image.float().div_(255) if image.dtype == torch.uint8 else image.float()
            low, high = _extremes(image)
        else:
            ratio = max(width / size, height / size)
            height, width = max(1, int(height / ratio)), max(1, int(width / ratio))
            image = self.channels_last(image)
            image = F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)
            low, high = _extremes(image)
            if low < 0.0 or high > 1.0:
                image.clamp_(0.0, 1.0)
        top, left = (size - height) // 2, (size - width) // 2
        square = torch.full((len(image), 3, size, size), BLACK)
        # Twice a float is exact, so that this rounds once, as a product and then a difference do.
        torch.add(torch.tensor(-1.0), image, alpha=2.0, out=square[:, :, top : top + height, left : left + width])
        return square, low, high

    def channels_last(self, image: Tensor) -> Tensor:
        """Returns float32, uint8 as [0, 1], with the channels of a pixel side by side in memory, as cameras give them.

        torch interpolates that in a third of the time that planes take, to the same bits; and OpenCV makes it of planes in a
        third of the time that torch takes. What is not the image itself is overwritten by the thread's next call.

        Args:
            image: (B, 3, H, W).
        """
        if image.is_contiguous(memory_format=torch.channels_last) and image.dtype == torch.float32:
            return image
        memory = self._memory(image)
        merged = torch.from_numpy(memory).movedim(-1, 1)
        if image.dtype == torch.float32:
            for planes, pixels in zip(image.contiguous(), np.split(memory, len(memory)), strict=True):
                cv2.merge([plane.numpy() for plane in planes], pixels[0])
            return merged
        merged.copy_(image)
        return merged.div_(255) if image.dtype == torch.uint8 else merged

    def _memory(self, image: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Returns (B, H, W, 3) for an image of (B, 3, H, W)."""
        batch, channels, height, width = image.shape
        # No tensor: one that was made in inference mode may not be written to outside.
        if getattr(self._kept, "memory", np.empty(0)).size < image.numel():
            self._kept.memory = np.empty(image.numel(), np.float32)
        memory: np.ndarray[Any, np.dtype[np.float32]] = self._kept.memory[: image.numel()]
        return memory.reshape(batch, height, width, channels)


def _extremes(image: Tensor) -> tuple[float, float]:
    """Returns the least and the greatest value of (B, 3, H, W)."""
    # In the order of memory: torch copies what it does not find contiguous.
    low, high = (image.movedim(1, -1) if image.movedim(1, -1).is_contiguous() else image).aminmax()
    return float(low), float(high)
