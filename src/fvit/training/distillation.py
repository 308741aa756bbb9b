"""Parts of distillation: weights of losses that change over a run, and token matching between two models."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from fvit.models.hosts import Site, sites
from fvit.training.losses import token_loss


@dataclass(frozen=True)
class LossWeight:
    """The weight of a loss as a function of training progress in [0, 1].

    Attributes:
        weight: the weight at `start`.
        schedule: ``constant``, ``linear`` or ``cosine``; the last two fall to 0 at `end`.
        start: progress before which the weight is 0.
        end: progress from which the weight is 0.
    """

    weight: float
    schedule: Literal["constant", "linear", "cosine"]
    start: float
    end: float

    @classmethod
    def pop_from(cls, options: dict[str, Any]) -> Self:
        """Build a weight from the options of a loss, and remove them there."""
        return cls(**{field.name: options.pop(field.name) for field in fields(cls)})

    def __call__(self, progress: float) -> float:
        if not self.start <= progress < self.end:
            return 0.0
        within = (progress - self.start) / (self.end - self.start)
        match self.schedule:
            case "constant":
                return self.weight
            case "linear":
                return self.weight * (1 - within)
            case "cosine":
                return self.weight * (1 + math.cos(math.pi * within)) / 2

    def __str__(self) -> str:
        when = f" from {self.start:.0%} to {self.end:.0%}" if (self.start, self.end) != (0, 1) else ""
        return f"{self.weight:g}" + (f" {self.schedule}" if self.schedule != "constant" else "") + when


class TokenMatch(nn.Module):
    """The distance between tokens of the student and of the teacher.

    If their widths differ, a linear projector per place maps the student's tokens to the teacher's width; it is trained
    with the student. If they have different class or register tokens, only patches are compared.

    Args:
        student, teacher: hosts of `fvit.models.exchange`.
        place: outputs of ``attention`` in each block, of ``blocks``, or of the ``final`` norm.
        distance: ``mse`` or ``cosine``.
        blocks: the teacher's block for each of the student's; None for the same ones, in models of equal depth.
        inputs: what the student's attentions are given: the tokens of the ``student``, in its forward pass, or those of
            the ``teacher``, in a pass of their own. Then blocks do not depend on each other, and only attentions have
            gradients (LoLCATs, arXiv:2410.10254).

    Raises:
        ValueError: a model has no such tokens, their grids differ, or `blocks` or `inputs` does not fit.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        place: Literal["attention", "blocks", "final"],
        distance: Literal["mse", "cosine"],
        blocks: Sequence[int] | None = None,
        inputs: Literal["student", "teacher"] = "student",
    ) -> None:
        super().__init__()
        self.distance, self.inputs = distance, inputs
        ours, theirs = _sites(student, "student"), _sites(teacher, "teacher")
        if place == "final":
            ours, theirs = ours[-1:], theirs[-1:]
        else:
            theirs = [theirs[index] for index in _map_blocks(len(ours), len(theirs), blocks, place)]
        pairs = list(zip(ours, theirs, strict=True))
        self.student, self.teacher = Tap(_modules(student, ours, place)), Tap(_modules(teacher, theirs, place))
        self.skips = [_prefixes(one, other) for one, other in pairs]
        widths = [(_width(one), _width(other)) for one, other in pairs]
        if inputs == "teacher" and any(one != other for one, other in widths + self.skips):
            raise ValueError(
                "distillation.attention.inputs=teacher needs a student with the teacher's width and its class and "
                "register tokens; set inputs=student"
            )
        self.projectors = nn.ModuleList(nn.Linear(*pair) if pair[0] != pair[1] else nn.Identity() for pair in widths)

    def forward(self) -> Tensor:
        """The loss of both models' last forward passes, averaged over places."""
        outputs = self.student.outputs
        if self.inputs == "teacher":
            calls = zip(self.student.modules, self.teacher.inputs, strict=True)
            outputs = [attention(*args, **options) for attention, (args, options) in calls]
        places = zip(self.projectors, outputs, self.teacher.outputs, self.skips, strict=True)
        losses = [
            token_loss(projector(student)[:, ours:], teacher[:, theirs:], self.distance)
            for projector, student, teacher, (ours, theirs) in places
        ]
        return torch.stack(losses).mean()

    def __enter__(self) -> Self:
        self.student.open = self.teacher.open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.student.close()
        self.teacher.close()


class Tap:
    """Records calls of modules while it is open. Its hooks stay, because torch.compile ignores new ones."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self.close()
        for index, module in enumerate(modules):
            module.register_forward_hook(partial(self._record, index), with_kwargs=True)

    def close(self) -> None:
        """Stop recording, and release what was recorded."""
        self.open = False
        self.inputs: list[Any] = [None] * len(self.modules)
        self.outputs: list[Tensor | None] = [None] * len(self.modules)

    def _record(self, index: int, module: nn.Module, args: Any, options: dict[str, Any], output: Tensor) -> None:
        if self.open:
            self.inputs[index], self.outputs[index] = (args, options), output


def _sites(model: nn.Module, role: str) -> list[Site]:
    try:
        found = sites(model)
        if not all(hasattr(site.block, part) for site in found for part in ("attn", "norm1")):
            raise ValueError(f"the blocks of {type(model).__name__} are not attention followed by an MLP")
    except ValueError as error:
        raise ValueError(
            f"the tokens of the {role} cannot be matched: {error}. Distil logits: distillation=deit_soft or deit_hard"
        ) from error
    return found


def _modules(model: nn.Module, at: Sequence[Site], place: str) -> list[nn.Module]:
    """The modules whose outputs are the tokens of a place."""
    return [{"attention": site.block.attn, "blocks": site.block, "final": model.norm}[place] for site in at]


def _width(site: Site) -> int:
    return next(site.block.norm1.parameters()).numel()


def _map_blocks(ours: int, theirs: int, blocks: Sequence[int] | None, place: str) -> Sequence[int]:
    """The teacher's block for each of the student's."""
    key = f"distillation.{'attention' if place == 'attention' else 'features'}.blocks"
    if blocks is None and ours != theirs:
        even = ",".join(str(round((index + 1) * theirs / ours) - 1) for index in range(ours))
        raise ValueError(
            f"the student has {ours} blocks and the teacher {theirs}; name the teacher's block for each of the "
            f"student's, for example {key}=[{even}]"
        )
    chosen = range(ours) if blocks is None else list(blocks)
    if len(chosen) != ours:
        raise ValueError(f"{key}={chosen} names {len(chosen)} blocks of the teacher, and the student has {ours}")
    if wrong := [index for index in chosen if not 0 <= index < theirs]:
        raise ValueError(f"{key} names {wrong}, and the teacher has blocks 0 to {theirs - 1}")
    return chosen


def _prefixes(ours: Site, theirs: Site) -> tuple[int, int]:
    """Number of tokens to skip at the front of each."""
    if ours.grid != theirs.grid:
        raise ValueError(
            f"the student sees {ours.grid[0]} × {ours.grid[1]} patches and the teacher {theirs.grid[0]} × "
            f"{theirs.grid[1]}; use the teacher's model.patch_size, or distil logits: distillation=deit_soft or "
            "deit_hard"
        )
    return (0, 0) if ours.prefix == theirs.prefix else (ours.prefix, theirs.prefix)
