"""What pyproject.toml declares, against the pinned versions and what the package imports."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
DECLARED = [Requirement(text) for text in [*PROJECT["dependencies"], *(text for extra in EXTRAS for text in extra)]]
NOT_INSTALLED = ("fvit", "natten", "gcsfs")  # by the extra dev, and so by no test
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
PINNED = {canonicalize_name(name): version for name, version in PINNED.items()}


@pytest.mark.parametrize("requirement", [one for one in DECLARED if one.name not in NOT_INSTALLED], ids=str)
def test_pinned_versions_satisfy_what_is_declared(requirement):
    assert PINNED[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_compromised_versions_of_lightning_are_excluded(version):
    [lightning] = [requirement for requirement in DECLARED if requirement.name == "lightning"]
    assert version not in lightning.specifier


def test_everything_that_is_imported_is_declared():
    imported = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    owners = packages_distributions()
    declared = {canonicalize_name(requirement.name) for requirement in DECLARED}
    third_party = imported - sys.stdlib_module_names - {"fvit", "hydra_plugins"}
    assert not {name for name in third_party if declared.isdisjoint(map(canonicalize_name, owners.get(name, [name])))}
