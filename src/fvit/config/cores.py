"""How many cores this process may use, which on clusters and in containers are fewer than the machine has."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_MEMBERSHIP, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """The cores that the scheduler may run this process on, or fewer by the CPU quota of its control groups."""
    # macOS and Windows have no affinity.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([allowed, *_quotas()])))


def _quotas() -> Iterator[float]:
    """CPU seconds per second that this process's control groups, and those around them, may use."""
    if not _MEMBERSHIP.is_file():
        return
    for line in _MEMBERSHIP.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = _GROUPS
        elif "cpu" in controllers.split(","):
            root = _GROUPS / "cpu"
        else:
            continue
        group = root / path.lstrip("/")  # in a container maybe the host's path, which is not there
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(root))):
            yield from _v2(folder / "cpu.max") if root == _GROUPS else _v1(folder)


def _v2(file: Path) -> Iterator[float]:
    if file.is_file():
        quota, period = file.read_text().split()
        if quota != "max":
            yield int(quota) / int(period)


def _v1(folder: Path) -> Iterator[float]:
    quota, period = folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"
    if quota.is_file() and int(quota.read_text()) > 0:  # -1: no limit
        yield int(quota.read_text()) / int(period.read_text())
