import pytest

from fvit.data.sources import SOURCES, load


def test_an_unknown_source_names_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown data source 'cifar'; known: digits, folder, fake, imagenet, "):
        load("cifar")


@pytest.mark.parametrize("name", ["folder", "imagenet", "imagenette", "cifar10"])
def test_a_source_that_lies_somewhere_needs_a_root(name):
    with pytest.raises(ValueError, match=rf"^data={name} needs data\.root: "):
        load(name)


def test_functions_are_named_as_the_sources_and_their_files():
    for name, source in SOURCES.items():
        assert (source.__name__, source.__module__) == (name, f"fvit.data.sources.{name}")
