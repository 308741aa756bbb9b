"""What a step has found, row by row: no failure is lost, and what was not done says so."""

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

MEASURED, HOLDS, WRONG, FAILED, SKIPPED = "measured", "holds", "does not hold", "failed: ", "skipped: "


@dataclass
class Row:
    """One measurement or claim of a step."""

    step: str
    what: str
    status: str
    found: dict[str, Any] = field(default_factory=dict)
    traceback: str | None = None

    @property
    def good(self) -> bool:
        """Whether nothing is wrong here; what the machine cannot show is not wrong."""
        return self.status in (MEASURED, HOLDS) or self.status.startswith(SKIPPED)


class Report:
    """The rows of all steps, written anew after each.

    Args:
        device: what is checked.
        tiny: small sizes, which try the script out.
        seconds: for all steps.
        folder: where gpu.json and gpu.md are written.
    """

    def __init__(self, device: torch.device, tiny: bool, seconds: float, folder: Path) -> None:
        self.device, self.tiny, self.folder = device, tiny, folder
        self.on_gpu = device.type == "cuda"
        self.rows: list[Row] = []
        self.machine: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self._start, self._limit, self._step = time.monotonic(), seconds, ""

    @property
    def good(self) -> bool:
        """Whether every step ran and every claim holds."""
        return bool(self.rows) and all(row.good for row in self.rows)

    def late(self, share: float) -> bool:
        """Whether this share of the time has passed."""
        return time.monotonic() - self._start > share * self._limit

    def measured(self, what: str, **found: Any) -> None:
        """A measurement that claims nothing."""
        self.rows.append(Row(self._step, what, MEASURED, found))

    def claim(self, what: str, holds: bool, **found: Any) -> None:
        """Something that must be so, and what it was judged by."""
        self.rows.append(Row(self._step, what, HOLDS if holds else WRONG, found))

    def skipped(self, what: str, reason: str) -> None:
        """Something that this machine cannot show, or that no time was left for."""
        self.rows.append(Row(self._step, what, SKIPPED + reason))

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Inside, an error becomes a row; the check goes on, and fails in the end."""
        try:
            yield
        except Exception as error:
            text = next(iter(str(error).strip().splitlines()), "")
            status = f"{FAILED}{type(error).__name__}: {text[:200]}"
            self.rows.append(Row(self._step, what, status, traceback=traceback.format_exc()))

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step of the check, which is written to the files when it ends."""
        self._step, began = name, time.monotonic()
        with self.attempt("the step"):
            yield
        self.seconds[name] = round(time.monotonic() - began, 1)
        self.write()

    def write(self) -> None:
        """Write gpu.json, and gpu.md with the tables for docs/gpu.md."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"machine": self.machine, "seconds": self.seconds, "rows": [asdict(row) for row in self.rows]}
        (self.folder / "gpu.json").write_text(json.dumps(content, indent=1) + "\n")
        (self.folder / "gpu.md").write_text(self.markdown())

    def markdown(self) -> str:
        """A table per step."""
        lines = [", ".join(f"{name} {value}" for name, value in self.machine.items()), ""]
        for step, seconds in self.seconds.items():
            lines += [f"### {step} ({seconds:.0f} s)", "", "| | | |", "|---|---|---|"]
            for row in (row for row in self.rows if row.step == step):
                found = ", ".join(f"{name} {_text(value)}" for name, value in row.found.items() if value is not None)
                status = row.status if row.good else f"**{row.status}**"
                lines.append(f"| {row.what} | {status} | {found} |".replace("\n", " "))
            lines.append("")
        return "\n".join(lines)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, dict):
        return "; ".join(f"{name} {_text(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value)) or "none"
    return str(value)
