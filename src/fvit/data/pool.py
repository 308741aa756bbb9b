"""Runs a task on many items in worker processes."""

import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fvit.data.images import DataError

Advance = Callable[[int], None]  # called with the amount of work done since the last call
Task = Callable[[Any], Generator[int, None, Any]]  # yields the amount of work done since the last yield


def run(task: Task, items: Sequence[Any], workers: int, advance: Advance) -> list[Any]:
    """Run `task` on each item, in this process if there are no workers, and return the results in order."""
    # A DataLoader's workers end with this process, and report errors and their own death.
    events = DataLoader(
        _Events(task, items),
        batch_size=None,
        collate_fn=_unchanged,
        num_workers=min(workers, len(items)),
        in_order=False,
        generator=torch.Generator(),
    )
    results = {}
    try:
        for event in events:
            if isinstance(event, int):
                advance(event)
            elif isinstance(event, Exception):
                raise event
            else:
                index, results[index] = event
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise DataError(
            f"{str(error).rstrip('. ')}. If it ran out of memory, use fewer workers. Run the same command to resume"
        ) from None
    return [results[index] for index in range(len(items))]


class _Events(IterableDataset):
    """The progress (int), results (index, result) and error of this worker's items."""

    def __init__(self, task: Task, items: Sequence[Any]) -> None:
        self.task, self.items = task, items

    def __iter__(self) -> Iterator[int | tuple[int, Any] | Exception]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        try:
            for index in range(first, len(self.items), step):
                result = yield from self.task(self.items[index])
                yield index, result
        except DataError as error:
            yield error
        except Exception:
            if worker is None:
                raise
            yield RuntimeError(f"a worker failed:\n{traceback.format_exc()}")


def _unchanged(event: Any) -> Any:
    return event
