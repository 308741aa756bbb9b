"""One colour per attention mechanism, the same in every plot of a page."""

from collections.abc import Iterable

# Okabe and Ito's palette, which stays distinct for the colour-blind, and five more of Paul Tol's for longer lists.
_OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_TOL = ("#882255", "#332288", "#999933", "#AA4499", "#661100")
COLOURS = _OKABE_ITO + _TOL

# Beyond that colours repeat, and these tell their owners apart.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "triangle-down")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")


class Palette:
    """The colours of a page: the first mechanism has the first colour.

    Args:
        attentions: the mechanisms of everything on the page, in the order in which a reader meets them.
    """

    def __init__(self, attentions: Iterable[str]) -> None:
        self._places = {name: place for place, name in enumerate(dict.fromkeys(attentions))}

    def colour(self, attention: str) -> str:
        return COLOURS[self._places[attention] % len(COLOURS)]

    def turn(self, attention: str) -> int:
        """How many mechanisms before this one have its colour."""
        return self._places[attention] // len(COLOURS)
