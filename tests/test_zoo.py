"""docs/zoo.md is what docs/zoo.py generates from the classes, and omissions are reported."""

import difflib
import re
import sys
import types

import pytest

from fvit.attention import IdentityMixer, LinearAttention
from tests.scripts import DOCS, load

PAGE = (DOCS / "zoo.md").read_text(encoding="utf-8")

COMPLETE = """Twice the tokens: an example.

Source:
    Doe et al., "Doubling", arXiv:2101.00001, equation 1.

    out = 2x
    for all x

Cost: O(N·D·(1 + log N)) besides no projections; nothing else. It is cheap.

Released code: doubles
in place.

    out = x + x

Value convolution: 70.0 to
71.0 % (arXiv:2101.00001).

Family: linear.

Code: doe/doubling (MIT).
"""


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
@pytest.mark.parametrize(
    "key",
    [key if i % 12 == 0 else pytest.param(key, marks=pytest.mark.exhaustive) for i, key in enumerate(zoo.mechanisms())],
)
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


def test_the_page_compares_the_mechanisms_as_their_classes_and_the_published_figures_do():
    if zoo.comparison() not in PAGE:
        fail("the classes and published.csv", zoo.comparison())


def test_published_accuracies_are_those_of_one_host_and_recipe():
    rows = {row[0]: row[4:7] for key in ("softmax", "inline", "fnet", "ttt") for row in zoo.compared(key)}
    assert rows == {
        "[`softmax`](#softmax)": ["72.2", "79.8", "DeiT"],
        "[`inline`](#inline)": ["", "", ""],
        "&emsp;`inline_deit`": ["74.5*", "", "InLine"],  # its S is of 288 px
        "[`fnet`](#fnet)": ["", "", ""],  # published after ImageNet-21k
        "[`ttt`](#ttt)": ["", "", ""],
        "&emsp;`ttt_vit3`": ["76.5*", "81.6*", "ViT3"],
    }


def test_the_comparison_says_of_16_bits_what_their_section_says():
    named = re.findall(r"`(\w+)`", zoo.PRECISION.rpartition("What 16 bits would falsify")[2])
    assert sorted(named) == sorted(key for keys in zoo.IN_16_BITS.values() for key in keys)


def test_which_one_quotes_the_comparison():
    text = (DOCS / "which_one.md").read_text(encoding="utf-8")
    quoted = re.findall(r"`(\w+)`(?:\*\*)? (\d\d\.\d\*?) / (\d\d\.\d\*?)", text)
    rows = [row for key in zoo.mechanisms() for row in zoo.compared(key)]
    figures = {re.search(r"`(\w+)`", row[0])[1]: tuple(row[4:6]) for row in rows}
    assert len(quoted) == 5
    assert {name: pair for name, *pair in quoted} == {name: [*figures[name]] for name, *_ in quoted}
    known = {key for key in zoo.mechanisms() if any(row[4] or row[5] for row in zoo.compared(key))}
    assert f"{len(zoo.mechanisms()) - len(known)} of the {len(zoo.mechanisms())} mechanisms have no published" in text


def test_mechanisms_are_sorted_with_their_presets_below():
    chosen = [choice.name for key in zoo.mechanisms() for choice in zoo.choices(key)]
    overview, comparison, costs = re.split("^## (?:Compare|In 16 bits)$", PAGE, flags=re.MULTILINE)
    for part in (overview, costs):
        assert re.findall(r"^\| (?:\[|&emsp;)`(\w+)`", part, flags=re.MULTILINE) == chosen
    with_figures = {row.attention for row in zoo.published()}
    assert re.findall(r"^\| (?:\[|&emsp;)`(\w+)`", comparison, flags=re.MULTILINE) == [
        name for name in chosen if name in zoo.mechanisms() or name in with_figures
    ]
    assert re.findall(r"^### (\w+)$", PAGE, flags=re.MULTILINE) == zoo.mechanisms()


def test_a_docstring_is_parsed(mechanism_with):
    described = zoo.describe(mechanism_with(COMPLETE))
    assert described.summary == "Twice the tokens: an example"
    assert described.source == 'Doe et al., "Doubling", arXiv:2101.00001, equation 1.'
    assert described.formula == "out = 2x\nfor all x"
    assert described.cost == "O(N·D·(1 + log N)) besides no projections"
    assert described.released == "doubles in place."
    assert described.convolution == "70.0 to 71.0 % (arXiv:2101.00001)"
    assert (described.family, described.code) == ("linear", "doe/doubling (MIT)")
    without = zoo.describe(mechanism_with(re.sub("Released|Value|Code:", "No", COMPLETE)))
    assert (without.released, without.convolution, without.code) == ("", "", "")


@pytest.mark.parametrize(
    ("found", "written", "message"),
    [
        ("Source:", "From:", "has no paragraph that starts with 'Source:'; write 'Source: Authors"),
        ("arXiv:2101.00001", "a book", "names no paper in the form arXiv:2108.09084 under 'Source:': Doe et al"),
        ("\nCost:", "Its cost is", "has no paragraph that starts with 'Cost:'; write 'Cost: O"),
        ("Cost: O(", "Cost: about O(", "starts 'Cost:' with no order such as O.* and not with none: about O"),
        ("Family:", "Kind:", "has no paragraph that starts with 'Family:'; write 'Family: softmax"),
        ("Family: linear", "Family: lines", "has no known family: lines; write one of softmax, linear, "),
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
