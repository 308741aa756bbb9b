"""How long a device waits between a step and its next batch: on a CPU by the clock, on CUDA by events."""

import time
from typing import Protocol

import torch


class Waiting(Protocol):
    """Adds up the time from the end of a step until the next batch is on the device."""

    def step_ended(self) -> None: ...

    def batch_arrived(self, event: "torch.cuda.Event | None") -> None:
        """The next step begins; `event` was recorded when its batch was on the device, None if just now."""

    def count(self) -> None:
        """Add the time between the two latest calls."""

    def seconds(self) -> float:
        """The sum so far, for which a GPU may be waited for."""


def waiting_for(device: torch.device) -> Waiting:
    """What measures on `device`."""
    return DeviceIdle() if device.type == "cuda" else HostWait()


class HostWait:
    """Where the host computes: it cannot do so while it waits for a batch."""

    def __init__(self) -> None:
        self._ended = self._arrived = self._sum = 0.0

    def step_ended(self) -> None:
        self._ended = time.perf_counter()

    def batch_arrived(self, event: "torch.cuda.Event | None") -> None:
        self._arrived = time.perf_counter()

    def count(self) -> None:
        self._sum += self._arrived - self._ended

    def seconds(self) -> float:
        return self._sum


class DeviceIdle:
    """The time in which a GPU has nothing to do, because all it was given is done.

    The host runs ahead of a GPU, and may wait for a batch while the GPU is busy with the step before. So events are put
    into the GPU's queue, behind the step and where the next batch is on the GPU. Without a wait the second comes at
    once. Their times are read in `seconds`, not in each step.
    """

    def __init__(self) -> None:
        self._ended = self._arrived = _now()
        self._pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._sum = 0.0

    def step_ended(self) -> None:
        self._ended = _now()

    def batch_arrived(self, event: "torch.cuda.Event | None") -> None:
        self._arrived = event or _now()

    def count(self) -> None:
        self._pairs.append((self._ended, self._arrived))

    def seconds(self) -> float:
        pairs, self._pairs = self._pairs, []
        if pairs:
            pairs[-1][1].synchronize()
        self._sum += sum(ended.elapsed_time(arrived) for ended, arrived in pairs) / 1000
        return self._sum


def _now() -> "torch.cuda.Event":
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
