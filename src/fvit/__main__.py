"""`python -m fvit` lists the commands."""

import ast
import sys
from pathlib import Path

import fvit
from fvit.config.errors import did_you_mean


def main() -> None:
    """Print one line per command."""
    listed = commands()
    if sys.argv[1:] == ["--version"]:
        print(f"fvit {fvit.__version__}")
        return
    if len(sys.argv) > 1:
        near = did_you_mean(f"fvit-{sys.argv[1]}", listed)
        sys.exit(f"error: python -m fvit takes no arguments{near or '; it lists the commands'}")
    width = max(map(len, listed))
    for name, text in listed.items():
        print(f"{name:<{width}}  {text}")
    print("\nEach command has --help and accepts quiet=true.")


def commands() -> dict[str, str]:
    """Each command's description, the first line of its module; read from source, because importing them is slow."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        name, colon, text = first.partition(": ")
        if colon and name.startswith("fvit-"):
            found[name] = text.rstrip(".")
    return found


if __name__ == "__main__":
    main()
