"""docs/zoo.md is what docs/zoo.py generates from the classes, and omissions are reported."""

import difflib
import importlib.util
import re
import sys
import types
from pathlib import Path

import pytest

from fvit.attention import IdentityMixer, LinearAttention

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")

COMPLETE = """Twice the tokens: an example.

Source:
    Doe et al., "Doubling", arXiv:2101.00001, equation 1.

    out = 2x
    for all x

Cost: O(N·D·(1 + log N)) besides no projections; nothing else. It is cheap.

Released code: doubles
in place.

    out = x + x
"""


def load(name):
    """docs/NAME.py, which is not in a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


zoo = load("zoo")


@pytest.fixture
def mechanism_with(monkeypatch):
    """Makes a mechanism in a module with the given docstring."""

    def make(docstring):
        monkeypatch.setitem(sys.modules, "a_module", types.ModuleType("a_module", docstring))
        return type("Doubling", (IdentityMixer,), {"__module__": "a_module"})

    return make


def fail(missing, text):
    changes = difflib.unified_diff(PAGE.splitlines(), text.splitlines(), "docs/zoo.md", "the classes", n=0, lineterm="")
    added = [line for line in changes if line.startswith("+")]
    pytest.fail(f"docs/zoo.md does not match {missing}; regenerate it with make zoo\n" + "\n".join(added))


@pytest.mark.slow
@pytest.mark.parametrize("key", zoo.mechanisms())
def test_the_page_describes_each_mechanism_as_its_class_does(key):
    entry = zoo.entry(key)
    for part in (entry.overview, entry.costs, f"{entry.section}\n"):
        if part not in f"{PAGE}\n":
            fail(f"the class of {key}", part)


def test_the_page_contains_nothing_else(monkeypatch):
    """Apart from the mechanisms' own rows and sections."""
    monkeypatch.setattr(zoo, "mechanisms", list)
    frame = zoo.render()
    left = re.sub(r"^\| (\[`|&emsp;).*\n", "", PAGE, flags=re.MULTILINE)
    if left[: left.index("### ")].rstrip() != frame.rstrip():
        fail("docs/zoo.py", frame)


def test_mechanisms_are_sorted_with_their_presets_below():
    chosen = [choice.name for key in zoo.mechanisms() for choice in zoo.choices(key)]
    assert re.findall(r"^\| (?:\[|&emsp;)`(\w+)`", PAGE, flags=re.MULTILINE) == 2 * chosen
    assert re.findall(r"^### (\w+)$", PAGE, flags=re.MULTILINE) == zoo.mechanisms()


def test_a_docstring_is_parsed(mechanism_with):
    described = zoo.describe(mechanism_with(COMPLETE))
    assert described.summary == "Twice the tokens: an example"
    assert described.source == 'Doe et al., "Doubling", arXiv:2101.00001, equation 1.'
    assert described.formula == "out = 2x\nfor all x"
    assert described.cost == "O(N·D·(1 + log N)) besides no projections"
    assert described.released == "doubles in place."
    assert not zoo.describe(mechanism_with(COMPLETE.replace("Released", "Unreleased"))).released


@pytest.mark.parametrize(
    ("found", "written", "message"),
    [
        ("Source:", "From:", "has no paragraph that starts with 'Source:'; write 'Source: Authors"),
        ("arXiv:2101.00001", "a book", "names no paper in the form arXiv:2108.09084 under 'Source:': Doe et al"),
        ("\nCost:", "Its cost is", "has no paragraph that starts with 'Cost:'; write 'Cost: O"),
        ("Cost: O(", "Cost: about O(", "starts 'Cost:' with no order such as O.* and not with none: about O"),
        ("    out", "out", "has no formula; write it as a paragraph of its own, indented by four spaces"),
    ],
)
def test_a_missing_part_of_a_docstring_is_reported(mechanism_with, found, written, message):
    with pytest.raises(ValueError, match=f"Doubling: the docstring of a_module {message}"):
        zoo.describe(mechanism_with(COMPLETE.replace(found, written)))


def test_a_module_without_docstring_is_reported(mechanism_with):
    with pytest.raises(ValueError, match="Doubling: the docstring of a_module has no paragraph"):
        zoo.describe(mechanism_with(None))


class Scaled(LinearAttention):
    """Linear attention.

    Args:
        scale: a factor,
            ``1`` for none.
    """

    def __init__(self, dim, num_heads=8, qkv_bias=True, scale=1.0, *, device=None, dtype=None):
        super().__init__(dim, num_heads, qkv_bias, device=device, dtype=dtype)


def test_options_are_the_arguments_that_hosts_do_not_pass():
    [option] = zoo.options(Scaled)
    assert (option.name, option.default, option.text) == ("scale", 1.0, "a factor, `1` for none")


def test_an_option_without_description_is_reported(monkeypatch):
    monkeypatch.setattr(Scaled, "__doc__", "Linear attention.")
    with pytest.raises(
        ValueError, match="Scaled: the docstring does not describe the option scale; add it under 'Args"
    ):
        zoo.options(Scaled)


def test_a_preset_is_named_after_its_key(tmp_path, monkeypatch):
    (tmp_path / "attention").mkdir()
    for name in ("linear", "flatten"):
        (tmp_path / "attention" / f"{name}.yaml").write_text("name: linear\n")
    monkeypatch.setattr(zoo, "conf_dir", lambda: tmp_path)
    with pytest.raises(ValueError, match=r"conf/attention/flatten.yaml is a preset of linear; name it linear_MODEL"):
        zoo.choices("linear")


def test_a_mechanism_without_a_file_in_conf_is_reported():
    with pytest.raises(ValueError, match=r"attention 'squared' has no file in conf/attention; write squared"):
        zoo.choices("squared")
