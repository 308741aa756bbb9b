"""Hosts that tell their mechanisms how the tokens lie, now and whenever the size of the images changes."""

import functools
from typing import Any

from torch import nn

from fvit.models.hosts import sites
from fvit.models.report import BlockReport


class TellsLayout:
    """Mixin of hosts: tells the mechanisms their grid, again whenever the input size changes."""

    exchange_report: tuple[BlockReport, ...] = ()
    """What the last exchange of each block did to it, in order of the blocks."""

    def tell_layout(self) -> None:
        """Tell every mechanism the grid and the number of prefix tokens."""
        for site in sites(self):
            if site.mechanism is not None:
                site.mechanism.set_layout(site.grid, site.prefix, site.index)

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """timm's `set_input_size`, then `tell_layout`."""
        super().set_input_size(*args, **kwargs)
        self.tell_layout()


def make_telling(model: nn.Module) -> None:
    """Make a finished model one that tells, by giving it a subclass of its class."""
    if not isinstance(model, TellsLayout):
        model.__class__ = _telling(type(model))


@functools.cache
def _telling(host: type[nn.Module]) -> type[nn.Module]:
    """`host` with `TellsLayout`: swapping a finished model's class keeps it deep-copyable, unlike bound hooks."""
    body = {"__doc__": host.__doc__, "__module__": host.__module__, "__reduce__": _reduce}
    return type(host.__name__, (TellsLayout, host), body)


def _reduce(model: nn.Module) -> tuple[Any, ...]:
    """Pickle by the host's class, which can be found by name, unlike the one made from it."""
    return _rebuild, (type(model).__bases__[1],), model.__dict__


def _rebuild(host: type[nn.Module]) -> nn.Module:
    cls = _telling(host)
    return cls.__new__(cls)
