"""The part of a model that does not learn."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn import Parameter

from fvit.models import BlockSpec, block_indices
from fvit.training.sharding import blocks

BACKBONE = "backbone"


class Frozen:
    """A part of a model whose weights stay, and which computes as in evaluation until it is released.

    So batch normalisation keeps its statistics there, and there is neither dropout nor stochastic depth. The optimizer
    knows the frozen weights all the same: without gradients it leaves them alone, and its state does not depend on when
    they are released.

    Args:
        model: with timm's ``get_classifier``.
        part: ``backbone`` for all but the classifier; or blocks, as in `fvit.models.exchange`, with what lies between
            two neighbours, and with the embeddings if they include block 0. None freezes nothing.

    Raises:
        ValueError: the model has no such blocks, or no classifier.
    """

    def __init__(self, model: nn.Module, part: BlockSpec | None) -> None:
        self.part = part
        chosen = [] if part is None else _backbone(model) if part == BACKBONE else _blocks(model, part)
        # Some position embeddings of timm never learn.
        self.parameters = [parameter for parameter in chosen if parameter.requires_grad]
        self._modules = _whole_modules(model, set(chosen))
        self._total = sum(parameter.numel() for parameter in model.parameters())
        self.active = part is not None
        self._require_gradients(not self.active)
        self.evaluate()

    def evaluate(self) -> None:
        """Put the frozen modules into evaluation mode, which a call of ``train()`` on the model ends."""
        for module in self._modules if self.active else []:
            module.eval()

    def release(self) -> None:
        """Let everything learn."""
        self.active = False
        self._require_gradients(True)
        for module in self._modules:
            module.train()

    @contextmanager
    def requiring_gradients(self) -> Iterator[None]:
        """A context in which the frozen weights pass for others, so that an optimizer takes them."""
        self._require_gradients(True)
        try:
            yield
        finally:
            self._require_gradients(not self.active)

    def facts(self) -> list[tuple[str, str]]:
        """Names and values for the summary that is printed before training."""
        if self.part is None:
            return []
        count = sum(parameter.numel() for parameter in self.parameters)
        return [("frozen", f"{self.part}: {count / 1e6:.2f} M of {self._total / 1e6:.2f} M parameters")]

    def _require_gradients(self, required: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(required)


def classifier_parameters(model: nn.Module) -> list[Parameter]:
    """The weights of a timm model's last layer or, of DeiT's distilled models, of its two.

    Raises:
        ValueError: it has none.
    """
    found = model.get_classifier()
    heads = found if isinstance(found, tuple) else (found,)
    parameters = [parameter for head in heads for parameter in head.parameters()]
    if not parameters:
        raise ValueError(f"{type(model).__name__} has no classifier of its own to train apart from the rest")
    return parameters


def _backbone(model: nn.Module) -> list[Parameter]:
    head = set(classifier_parameters(model))
    return [parameter for parameter in model.parameters() if parameter not in head]


def _blocks(model: nn.Module, part: BlockSpec) -> list[Parameter]:
    """The weights of the blocks, and of what stands between or before them: modules are registered in their order."""
    try:
        chosen = sorted(block_indices(part))
    except ValueError as error:
        raise ValueError(
            f"model.freeze={part}: {str(error).rpartition(': ')[2]}; or freeze all but the head: model.freeze=backbone"
        ) from None
    known = blocks(model)
    if not known or chosen[0] < 0 or chosen[-1] >= len(known):
        numbers = f"has blocks 0 to {len(known) - 1}" if known else "has no blocks: use model.freeze=backbone"
        raise ValueError(f"model.freeze={part}: {type(model).__name__} {numbers}")
    order = list(model.parameters())
    places = {parameter: place for place, parameter in enumerate(order)}
    spans = [[places[parameter] for parameter in known[index].parameters()] for index in chosen]
    frozen: set[int] = set()
    for position, (index, span) in enumerate(zip(chosen, spans, strict=True)):
        follows = position > 0 and chosen[position - 1] == index - 1
        start = 0 if index == 0 else max(spans[position - 1]) + 1 if follows else min(span)
        frozen.update(range(start, max(span) + 1))
    return [order[place] for place in sorted(frozen)]


def _whole_modules(module: nn.Module, frozen: set[Parameter]) -> list[nn.Module]:
    """The outermost modules of which all weights are frozen."""
    own = set(module.parameters())
    if own and own <= frozen:
        return [module]
    return [found for child in module.children() for found in _whole_modules(child, frozen)]
