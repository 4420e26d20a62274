"""What a group of tensors can do as one: be moved to a device, or be copied over those that are there."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import ttnn

Move = Callable[[ttnn.Tensor], ttnn.Tensor]


class Movable(ABC):
    """Several tensors, all on the host or all on the device."""

    @abstractmethod
    def moved(self, move: Move) -> Self:
        """Returns the group with each of its tensors moved, always in the same order."""

    def tensors(self) -> list[ttnn.Tensor]:
        """Returns the tensors, always in the same order."""
        found: list[ttnn.Tensor] = []

        def find(tensor: ttnn.Tensor) -> ttnn.Tensor:
            found.append(tensor)
            return tensor

        self.moved(find)
        return found

    def on(self, device: ttnn.Device) -> Self:
        """Returns the group, which is on the host, in the device's DRAM."""
        return self.moved(lambda tensor: ttnn.to_device(tensor, device, memory_config=ttnn.DRAM_MEMORY_CONFIG))

    def copy_over(self, there: Self) -> None:
        """Copies the group, which is on the host, over one that is on the device; allocates nothing there."""
        for on_host, on_device in zip(self.tensors(), there.tensors(), strict=True):
            ttnn.copy_host_to_device_tensor(on_host, on_device)
