import inspect
from typing import Literal, get_args

import lightning
import pytest

from fvit import attention
from fvit.data import SOURCES
from fvit.run.signature import mechanism_signature, source_signature, trainer_signature


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


def test_types_of_a_source_are_read_from_its_file():
    options = source_signature("imagenette")
    assert get_args(options["size"]) == ("320px", "160px", "full")
    assert options["root"] == str | None
    assert options["download"] is bool


def test_an_unknown_source_names_the_known_ones():
    with pytest.raises(ValueError, match=rf"unknown data source 'base'; known: {', '.join(SOURCES)}"):
        source_signature("base")
