"""python -m fvit: which commands there are."""

import ast
import sys
from pathlib import Path

from fvit.config.errors import did_you_mean


def main() -> None:
    """Print a line a command; arguments are for the commands themselves."""
    told = commands()
    if len(sys.argv) > 1:
        near = did_you_mean(f"fvit-{sys.argv[1]}", list(told))
        sys.exit(f"error: python -m fvit takes no arguments{near or '; it lists the commands'}")
    width = max(map(len, told))
    for name, text in told.items():
        print(f"{name:<{width}}  {text}")
    print("\nEach of them has --help, and takes quiet=true.")


def commands() -> dict[str, str]:
    """What each command does, from the first line of its module: read, because importing them all takes a second."""
    told = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        name, colon, text = first.partition(": ")
        if colon and name.startswith("fvit-"):
            told[name] = text.rstrip(".")
    return told


if __name__ == "__main__":
    main()
