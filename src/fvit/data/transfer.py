"""Copies of batches to a CUDA device, beside what it computes."""

from typing import Any

import torch
from lightning.pytorch.utilities import move_data_to_device
from torch.utils._pytree import tree_leaves


class SideStream:
    """Copies batches to a device on a stream of their own.

    The host asks for the next batch when the step before has been launched, of which most is still to be computed. The
    copy from pinned memory runs beside it, and only what is launched afterwards waits for it. Batches keep their order,
    and none is taken from the loader ahead of time, so nothing changes for resuming.

    Attributes:
        arrived: recorded among the device's computations where the latest batch is there; None before the first.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.arrived: torch.cuda.Event | None = None
        self._stream = torch.cuda.Stream(device)

    def __call__(self, batch: Any) -> Any:
        """`batch`, any tree of tensors, on the device."""
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            batch = move_data_to_device(batch, self.device)
        computing.wait_stream(self._stream)
        for leaf in tree_leaves(batch):
            if isinstance(leaf, torch.Tensor):
                # Else its memory could be reused by the next copy as soon as Python lets go of it.
                leaf.record_stream(computing)
        self.arrived = torch.cuda.Event(enable_timing=True)
        self.arrived.record(computing)
        return batch
