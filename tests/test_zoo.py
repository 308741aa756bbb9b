"""docs/zoo.md is what docs/zoo.py writes from the classes, and whoever leaves something out is told what."""

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

    out = x + x
"""


def load(name):
    """docs/NAME.py, which is in no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


zoo = load("zoo")


@pytest.fixture
def mechanism_with(monkeypatch):
    """Makes a mechanism of a module with the docstring that is given."""

    def make(docstring):
        monkeypatch.setitem(sys.modules, "a_module", types.ModuleType("a_module", docstring))
        return type("Doubling", (IdentityMixer,), {"__module__": "a_module"})

    return make


def fail(missing, text):
    changes = difflib.unified_diff(PAGE.splitlines(), text.splitlines(), "docs/zoo.md", "the classes", n=0, lineterm="")
    added = [line for line in changes if line.startswith("+")]
    pytest.fail(f"docs/zoo.md is out of step with {missing}; write it anew: make zoo\n" + "\n".join(added))


@pytest.mark.slow
@pytest.mark.parametrize("key", zoo.mechanisms())
def test_the_page_says_of_a_mechanism_what_its_class_does(key):
    entry = zoo.entry(key)
    for part in (entry.overview, entry.costs, f"{entry.section}\n"):
        if part not in f"{PAGE}\n":
            fail(f"the class of {key}", part)


def test_the_page_says_nothing_else(monkeypatch):
    """Around what its mechanisms say, which is left out of both here, and in their order."""
    monkeypatch.setattr(zoo, "mechanisms", list)
    frame = zoo.render()
    left = re.sub(r"^\| (\[`|&emsp;).*\n", "", PAGE, flags=re.MULTILINE)
    if left[: left.index("### ")].rstrip() != frame.rstrip():
        fail("docs/zoo.py", frame)


def test_mechanisms_stand_in_their_order_with_their_sets_below():
    chosen = [choice.name for key in zoo.mechanisms() for choice in zoo.choices(key)]
    assert re.findall(r"^\| (?:\[|&emsp;)`(\w+)`", PAGE, flags=re.MULTILINE) == 2 * chosen
    assert re.findall(r"^### (\w+)$", PAGE, flags=re.MULTILINE) == zoo.mechanisms()


def test_a_docstring_is_read(mechanism_with):
    described = zoo.describe(mechanism_with(COMPLETE))
    assert described.summary == "Twice the tokens: an example"
    assert described.source == 'Doe et al., "Doubling", arXiv:2101.00001, equation 1.'
    assert described.formula == "out = 2x\nfor all x"
    assert described.cost == "O(N·D·(1 + log N)) besides no projections"


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
def test_what_a_docstring_lacks_is_told(mechanism_with, found, written, message):
    with pytest.raises(ValueError, match=f"Doubling: the docstring of a_module {message}"):
        zoo.describe(mechanism_with(COMPLETE.replace(found, written)))


def test_a_module_without_docstring_is_told(mechanism_with):
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


def test_options_are_those_that_hosts_do_not_know():
    [option] = zoo.options(Scaled)
    assert (option.name, option.default, option.text) == ("scale", 1.0, "a factor, `1` for none")


def test_an_option_without_explanation_is_told(monkeypatch):
    monkeypatch.setattr(Scaled, "__doc__", "Linear attention.")
    with pytest.raises(ValueError, match="Scaled: its docstring does not explain the option scale; add it under 'Args"):
        zoo.options(Scaled)


def test_a_set_of_options_has_its_key_in_its_name(tmp_path, monkeypatch):
    (tmp_path / "attention").mkdir()
    for name in ("linear", "flatten"):
        (tmp_path / "attention" / f"{name}.yaml").write_text("name: linear\n")
    monkeypatch.setattr(zoo, "conf_dir", lambda: tmp_path)
    with pytest.raises(ValueError, match=r"conf/attention/flatten.yaml sets options of linear; name it linear_MODEL"):
        zoo.choices("linear")


def test_a_mechanism_without_a_file_in_conf_is_told():
    with pytest.raises(
        ValueError, match=r"attention 'squared' has no file of its own in conf/attention; write squared"
    ):
        zoo.choices("squared")
