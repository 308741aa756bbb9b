import inspect
from typing import Literal, get_args

import lightning
import pytest

from fvit import attention
from fvit.config.signature import mechanism_signature, source_signature, trainer_signature
from fvit.data import SOURCES


def _parameters(callable_):
    return [
        name
        for name, parameter in inspect.signature(callable_).parameters.items()
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]


@pytest.mark.parametrize("name", attention.names())
def test_mechanisms_signature_is_what_python_sees(name):
    assert list(mechanism_signature(name)) == _parameters(attention.get(name))


@pytest.mark.parametrize("name", SOURCES)
def test_sources_signature_is_what_python_sees(name):
    assert list(source_signature(name)) == _parameters(SOURCES[name])


def test_trainers_signature_is_what_python_sees():
    assert list(trainer_signature()) == _parameters(lightning.Trainer)


def test_types_are_read():
    options = mechanism_signature("additive")
    assert get_args(options["logits"]) == get_args(Literal["per_head", "full"])
    assert options["proj"] is bool
    assert options["attn_drop"] is float


def test_a_mechanism_outside_the_zoo_has_no_file():
    assert mechanism_signature("of_mine") is None


OWN = """
from typing import Literal
from fvit.attention import Linear as Parent, Projected
import fvit.attention

class Written(Projected):
    def __init__(self, *args, gain: float = 1.0, kind: Literal["a", "b"] = "a", **kwargs):
        super().__init__(*args, **kwargs)

class Inherited(Written):
    pass

class Renamed(Parent):
    pass

class Dotted(fvit.attention.Linear):
    pass

Made = type("Made", (Parent,), {})
"""


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """A package whose import fails, so that only its text can be read."""
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError")
    (package / "mine.py").write_text(OWN)
    (package / "near.py").write_text("from .mine import Inherited\nfrom . import mine\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own_package")
@pytest.mark.parametrize("place", ["mine:Written", "mine:Inherited", "near:Inherited"])
def test_ones_own_constructor_is_read_without_importing_it(place):
    options = mechanism_signature(f"own_package.{place}")
    assert list(options) == ["gain", "kind"]
    assert options["gain"] is float
    assert get_args(options["kind"]) == ("a", "b")


@pytest.mark.usefixtures("own_package")
def test_a_constructor_of_the_zoo_is_found_through_its_package():
    assert mechanism_signature("own_package.mine:Renamed") == mechanism_signature("linear")


@pytest.mark.usefixtures("own_package")
@pytest.mark.parametrize("module", ["own_package.mine", "own_package.far", "nowhere", "math", ""])
@pytest.mark.parametrize("cls", ["Dotted", "Made", "Nothing", ""])
def test_where_the_source_does_not_tell_it_is_left_to_the_build(module, cls):
    assert mechanism_signature(f"{module}:{cls}") is None


def test_types_of_a_source_are_read_from_its_file():
    options = source_signature("imagenette")
    assert get_args(options["size"]) == ("320px", "160px", "full")
    assert options["root"] == str | None
    assert options["download"] is bool


def test_an_unknown_source_names_the_known_ones():
    with pytest.raises(ValueError, match=rf"unknown data source 'base'; known: {', '.join(SOURCES)}"):
        source_signature("base")
