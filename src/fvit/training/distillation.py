"""What a student can be held to: a teacher's logits, or its tokens, each with a weight that changes over the run.

Source: soft logits from Hinton et al., arXiv:1503.02531; hard ones, and both in a ViT, from Touvron et al. (DeiT),
arXiv:2012.12877, equations 2 and 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.models.hosts import Site, sites


@dataclass(frozen=True)
class Weight:
    """The weight of a loss, by the share of the run that is behind.

    Attributes:
        weight: at `start`.
        schedule: ``constant``, ``linear`` or ``cosine``; the last two fall to 0 at `end`.
        start: share of the run before which the weight is 0.
        end: share of the run from which on it is 0 again.
    """

    weight: float
    schedule: Literal["constant", "linear", "cosine"]
    start: float
    end: float

    @classmethod
    def out_of(cls, options: dict[str, Any]) -> Self:
        """Take what is ours out of the options of a loss, in place."""
        return cls(**{field.name: options.pop(field.name) for field in fields(cls)})

    def __call__(self, share: float) -> float:
        """The weight after `share` of the run, in [0, 1]."""
        if not self.start <= share < self.end:
            return 0.0
        progress = (share - self.start) / (self.end - self.start)
        match self.schedule:
            case "constant":
                return self.weight
            case "linear":
                return self.weight * (1 - progress)
            case "cosine":
                return self.weight * (1 + math.cos(math.pi * progress)) / 2

    def __str__(self) -> str:
        when = f" from {self.start:.0%} to {self.end:.0%}" if (self.start, self.end) != (0, 1) else ""
        return f"{self.weight:g}" + (f" {self.schedule}" if self.schedule != "constant" else "") + when


def soft_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """τ² KL(softmax(teacher / τ) ‖ softmax(student / τ)), the mean over images, of logits [B, classes].

    As DeiT's equation 2; its released code divides by the number of classes as well.
    """
    student, teacher = (F.log_softmax(_wide(logits) / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def hard_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the teacher's choice, the mean over images, of logits [B, classes]."""
    return F.cross_entropy(_wide(student), teacher.argmax(dim=1))


def token_loss(student: Tensor, teacher: Tensor, distance: Literal["mse", "cosine"]) -> Tensor:
    """Mean squared error, or 1 - cosine of each token and its counterpart, the mean over tokens [B, N, C]."""
    if student.shape != teacher.shape:
        raise ValueError(f"tokens {list(student.shape)} of the student cannot be compared with {list(teacher.shape)}")
    student, teacher = _wide(student), _wide(teacher)
    if distance == "mse":
        return F.mse_loss(student, teacher)
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()


class TokenMatch(nn.Module):
    """Holds tokens of the student to the teacher's, at places inside both.

    Where the teacher is wider, or narrower, a linear projector a place maps the student's tokens to its width: it
    learns with the student, and no one needs it afterwards. Where only one of both has class or register tokens, the
    patches alone are compared.

    Args:
        student, teacher: hosts of `fvit.models.exchange`.
        place: ``attention``, what each block's attention gives; ``blocks``, what each block gives; ``final``, what
            the last norm gives.
        distance: ``mse`` or ``cosine``.
        blocks: for each block of the student, the one of the teacher; None for the same, in models of equal depth.

    Raises:
        ValueError: one of both has no such tokens, or not as many; `blocks` does not fit.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        place: Literal["attention", "blocks", "final"],
        distance: Literal["mse", "cosine"],
        blocks: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.distance = distance
        mine, theirs = _sites(student, "student"), _sites(teacher, "teacher")
        if place == "final":
            mine, theirs = mine[-1:], theirs[-1:]
        else:
            theirs = [theirs[index] for index in _map_blocks(len(mine), len(theirs), blocks, place)]
        pairs = list(zip(mine, theirs, strict=True))
        self.student, self.teacher = Tap(_modules(student, mine, place)), Tap(_modules(teacher, theirs, place))
        self.skips = [_prefixes(one, other) for one, other in pairs]
        widths = [(_width(one), _width(other)) for one, other in pairs]
        self.projectors = nn.ModuleList(nn.Linear(*pair) if pair[0] != pair[1] else nn.Identity() for pair in widths)

    def forward(self) -> Tensor:
        """The loss of the newest pass of both, the mean over places."""
        places = zip(self.projectors, self.student.outputs, self.teacher.outputs, self.skips, strict=True)
        losses = [
            token_loss(projector(mine)[:, ours:], theirs[:, others:], self.distance)
            for projector, mine, theirs, (ours, others) in places
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
    """Keeps what modules give, while it is open.

    Its hooks stay: `torch.compile` does not notice new ones.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.outputs: list[Tensor | None] = [None] * len(modules)
        self.open = False
        for index, module in enumerate(modules):
            module.register_forward_hook(partial(self._keep, index))

    def close(self) -> None:
        """Let go of what was kept."""
        self.open = False
        self.outputs = [None] * len(self.outputs)

    def _keep(self, index: int, module: nn.Module, args: Any, output: Tensor) -> None:
        if self.open:
            self.outputs[index] = output


def _sites(model: nn.Module, role: str) -> list[Site]:
    try:
        found = sites(model)
        if not all(hasattr(site.block, part) for site in found for part in ("attn", "norm1")):
            raise ValueError(f"the blocks of {type(model).__name__} are not an attention and an MLP in turn")
    except ValueError as error:
        raise ValueError(
            f"the tokens of the {role} cannot be matched: {error}. Distil logits: distillation=deit_soft or deit_hard"
        ) from error
    return found


def _modules(model: nn.Module, at: Sequence[Site], place: str) -> list[nn.Module]:
    """The modules that give the tokens of a place."""
    return [{"attention": site.block.attn, "blocks": site.block, "final": model.norm}[place] for site in at]


def _width(site: Site) -> int:
    return next(site.block.norm1.parameters()).numel()


def _map_blocks(mine: int, theirs: int, blocks: Sequence[int] | None, place: str) -> Sequence[int]:
    """The teacher's block for each of the student's."""
    key = f"distillation.{'attention' if place == 'attention' else 'features'}.blocks"
    if blocks is None and mine != theirs:
        even = ",".join(str(round((index + 1) * theirs / mine) - 1) for index in range(mine))
        raise ValueError(
            f"the student has {mine} blocks and the teacher {theirs}; say which of the teacher's is for each of the "
            f"student's: {key}=[{even}], for example"
        )
    chosen = range(mine) if blocks is None else list(blocks)
    if len(chosen) != mine:
        raise ValueError(f"{key}={chosen} names {len(chosen)} blocks of the teacher, and the student has {mine}")
    if wrong := [index for index in chosen if not 0 <= index < theirs]:
        raise ValueError(f"{key} names {wrong}, and the teacher has blocks 0 to {theirs - 1}")
    return chosen


def _prefixes(mine: Site, theirs: Site) -> tuple[int, int]:
    """How many tokens to leave out at the front of each."""
    if mine.grid != theirs.grid:
        raise ValueError(
            f"the student sees {mine.grid[0]} × {mine.grid[1]} patches and the teacher {theirs.grid[0]} × "
            f"{theirs.grid[1]}; their tokens can be matched if model.patch_size is the teacher's. Else distil logits: "
            "distillation=deit_soft or deit_hard"
        )
    return (0, 0) if mine.prefix == theirs.prefix else (mine.prefix, theirs.prefix)


def _wide(tensor: Tensor) -> Tensor:
    """In float32, if it was less."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
