"""The searches in docs/optuna.md work, and it lists all options."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf
from optuna.pruners import BasePruner

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.study import Options, Study
from fvit.config.schemas.train import Train
from fvit.search import space

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "optuna.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.startswith("fvit-train")
]


def _options(hydra, overrides):
    """The sweeper's options, checked as for a study."""
    config = hydra.compose_config("train", overrides, RunMode.MULTIRUN)
    config.hydra.sweep.dir = "here"
    sweeper = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    assert sweeper.pop("_target_") == "hydra_plugins.fvit_optuna.OptunaSweeper"
    assert sweeper.pop("_recursive_") is False
    plain = validation.check(OmegaConf.create({"hydra": {"sweeper": sweeper}}), Study)
    return Options.model_validate(plain["hydra"]["sweeper"]), config.hydra.mode


@pytest.mark.parametrize("line", [COMMANDS[0], *(pytest.param(line, marks=pytest.mark.slow) for line in COMMANDS[1:])])
def test_a_search_can_start(line):
    _, *overrides = shlex.split(line)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        options, mode = _options(GlobalHydra.instance().hydra, overrides)
        assert mode == RunMode.MULTIRUN
        found, fixed = space.parse(options.params, overrides, GlobalHydra.instance().config_loader())
        assert len(found) >= 2
        given = ["output_dir=here", "title=test", *(["~callbacks.pruning"] if "sweep=optuna" in overrides else [])]
        for trial in space.covering(found):
            assert validation.check(compose("train", [*given, *fixed, *trial]), Train)


def test_there_are_commands():
    assert len(COMMANDS) == 5


@pytest.mark.parametrize("option", sorted(path.stem for path in (conf_dir() / "hydra/sweeper/pruner").glob("*.yaml")))
def test_every_pruner_is_built_and_documented(option):
    bounds = ["hydra.sweeper.pruner.lower=0.1"] if option == "threshold" else []
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        options, _ = _options(hydra, ["sweep=optuna", f"hydra/sweeper/pruner={option}", *bounds])
    assert isinstance(instantiate(options.pruner), BasePruner)
    assert options.prunes == (option != "none")
    assert f"| `{option}`" in TEXT


def test_every_option_is_documented():
    assert set(Options.model_fields) - {"params", "pruner"} <= set(re.findall(r"`(\w+)`", TEXT))


def test_the_widths_of_the_pareto_preset_are_multiples_of_the_heads():
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        options, _ = _options(GlobalHydra.instance().hydra, ["sweep=pareto"])
        heads = compose("train", ["output_dir=here", "title=test"]).model.num_heads
    widths = re.findall(r"\d+", options.params["model.embed_dim"])
    assert widths
    assert not any(int(width) % heads for width in widths)
