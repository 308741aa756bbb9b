import pytest

from fvit.config.naming import choices, mechanism, settings, short_names, variant


@pytest.mark.parametrize(
    ("choice", "attention", "name"),
    [
        ("softmax", {"name": "softmax"}, "softmax"),
        ("additive_fastformer", {"name": "additive"}, "additive_fastformer"),
        ("own", {"name": "mine:Squared"}, "mine:Squared"),
        (None, {"name": "lab.mine:Squared"}, "lab.mine:Squared"),
        (None, "softmax", "softmax"),
        ("native", {"name": "native"}, "native"),
        ("native", {"name": "additive"}, "additive"),  # of the folder or hub that the model is from
        (None, None, "–"),
    ],
)
def test_a_mechanism_is_an_option_or_ones_own_class(choice, attention, name):
    assert mechanism(choice, attention) == name


TITLE = "vit_tiny, softmax"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["attention=softmax", "model=vit_tiny", "seed=3", "logger=wandb", "+logger.wandb.notes=a", "quiet=true"], []),
        (["optimizer.lr=1e-3", "hydra.run.dir=x", "ckpt_path=last"], ["optimizer.lr=1e-3"]),
        (["+model.attention.scale=2", "augment=deit"], ["model.attention.scale=2", "augment=deit"]),
        (["attention=linear"], ["attention=linear"]),  # the title is the user's own and does not say so
        (["callbacks=[default,ema]", "data.root=/a"], ["callbacks=[default,ema]", "data.root=/a"]),
    ],
)
def test_a_variant_names_what_the_command_line_set(overrides, named):
    assert settings(overrides, TITLE) == named
    assert variant(overrides, TITLE) == ", ".join([TITLE, *named])


def test_placeholders_are_not_named_next_to_what_they_stand_for():
    overrides = ["model=timm", "model.name=resnet18", "attention=own", "model.attention.name=mine:Squared"]
    assert settings(overrides, "resnet18, mine:Squared") == []


def test_choices_are_those_of_our_groups_with_the_mechanism():
    recorded = {"model": "vit_tiny", "attention": "own", "debug": None, "hydra/launcher": "basic"}
    found = choices(recorded, {"name": "mine:Squared"})
    assert found == {"model": "vit_tiny", "attention": "mine:Squared", "debug": None}
    assert choices({}, None) == {}


def test_short_names_stay_unique():
    keys = ["optimizer.lr", "scheduler.min_lr", "model.depth", "a.x.name", "b.x.name", "name"]
    assert list(short_names(keys).values()) == ["lr", "min_lr", "depth", "a.x.name", "b.x.name", "name"]
