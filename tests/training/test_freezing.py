"""Frozen parts: which weights they have, that these stay, and when they are released."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from fvit.callbacks.unfreeze import Unfreeze
from fvit.launch import processes
from fvit.models import build
from fvit.training.freezing import Frozen
from tests.callbacks.test_resume_state import KillAt, Killed
from tests.stopped import differences, last

from .fitting import BARE, FAKE, Probe, fit

VIT = dict(name="vit_tiny_patch16_224", img_size=32, num_classes=3, embed_dim=24, depth=4, num_heads=3)
SWIN = dict(name="swin_tiny_patch4_window7_224", img_size=56, num_classes=3, embed_dim=12, num_heads=(1, 2, 4, 8))


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def under(model, *prefixes):
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


def test_a_test_after_the_release_finds_nothing_to_release():
    module = SimpleNamespace(frozen=SimpleNamespace(active=False))
    Unfreeze(epoch=1).setup(SimpleNamespace(), module, "test")
    with pytest.raises(ValueError, match="nothing to release"):
        Unfreeze(epoch=1).setup(SimpleNamespace(), module, "fit")


@pytest.mark.parametrize(
    ("options", "part", "learns"),
    [
        (VIT, None, ("",)),
        (VIT, "backbone", ("head.",)),
        (VIT, "0-1", ("blocks.2", "blocks.3", "norm", "head")),
        (VIT, 2, ("cls_token", "pos_embed", "patch_embed", "blocks.0", "blocks.1", "blocks.3", "norm", "head")),
        (VIT, [0, 3], ("blocks.1", "blocks.2", "norm", "head")),
        (
            # What merges patches between stages belongs to two frozen neighbours.
            SWIN,
            "0-4",
            (*(f"layers.2.blocks.{block}" for block in range(1, 6)), "layers.3", "norm", "head"),
        ),
        ({**VIT, "name": "deit_tiny_distilled_patch16_224"}, "backbone", ("head.", "head_dist.")),
        (dict(name="convnextv2_atto", img_size=32, num_classes=3), "backbone", ("head.fc",)),
        (dict(name="casvit_xs", img_size=32, num_classes=3), "backbone", ("head.fc", "head_dist")),
    ],
)
def test_part_that_does_not_learn(options, part, learns):
    with torch.device("meta"):
        model = build(**options)
    Frozen(model, part)
    assert learning(model) == under(model, *learns) != set()


def test_only_frozen_modules_are_in_evaluation_mode_until_they_are_released():
    model = build(**VIT)
    frozen = Frozen(model, "0-1")
    model.train()
    frozen.evaluate()
    modes = {name: module.training for name, module in model.named_modules() if next(module.children(), None) is None}
    assert {name for name, training in modes.items() if not training} >= {
        "patch_embed.proj",
        "blocks.0.norm1",
        "blocks.1.attn.attn_drop",
    }
    assert all(training for name, training in modes.items() if name.startswith(("blocks.2", "norm", "head")))
    frozen.release()
    assert all(module.training for module in model.modules())


def test_weights_that_never_learn_are_not_released():
    model = build(**VIT)
    model.pos_embed.requires_grad_(False)
    frozen = Frozen(model, "backbone")
    with frozen.requiring_gradients():
        assert learning(model) == under(model, "") - {"pos_embed"}
    assert learning(model) == {"head.weight", "head.bias"}
    frozen.release()
    assert learning(model) == under(model, "") - {"pos_embed"}


@pytest.mark.parametrize(
    ("options", "part", "message"),
    [
        (VIT, "0-4", "model.freeze=0-4: VisionTransformer has blocks 0 to 3"),
        (VIT, "-1", "model.freeze=-1: VisionTransformer has blocks 0 to 3"),
        (VIT, "trunk", "model.freeze=trunk: 'trunk' is not a block; .*freeze all but the head: model.freeze=backbone"),
        (dict(name="test_resnet", img_size=32, num_classes=3), "0-1", "has no blocks: use model.freeze=backbone"),
        ({**VIT, "num_classes": 0}, "backbone", "has no classifier of its own"),
    ],
)
def test_unknown_parts_are_refused(options, part, message):
    with torch.device("meta"):
        model = build(**options)
    with pytest.raises(ValueError, match=message):
        Frozen(model, part)


class Weights(Probe):
    """Copies weights and statistics before each epoch and at the end."""

    def __init__(self):
        super().__init__()
        self.states = []

    def on_train_epoch_start(self, trainer, module):
        self.states.append({name: value.clone() for name, value in module.model.state_dict().items()})

    def on_train_end(self, trainer, module):
        self.on_train_epoch_start(trainer, module)


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


NORMALISED = (*BARE[4:], "scheduler=constant", "model=timm", "model.name=test_efficientnet", "data.num_images=32")


def test_statistics_of_a_frozen_part_stay_and_the_summary_names_it(compose_config, capsys):
    probe = fit(compose_config(*NORMALISED, "model.freeze=backbone"), Weights())
    assert moved(*probe.states) == {"classifier.weight", "classifier.bias"}
    assert " frozen     backbone: 0." in capsys.readouterr().out
    assert probe.trainer.optimizers[0].state.keys() == set(probe.module.model.classifier.parameters())


def test_released_part_learns_from_its_epoch_on(compose_config):
    unfreeze = ("model.freeze=backbone", "callbacks=unfreeze", "callbacks.unfreeze.epoch=2", "trainer.max_epochs=3")
    probe = fit(compose_config(*NORMALISED[:-1], "data.num_images=32", *unfreeze), Weights())
    start, second, third, end = probe.states
    assert moved(start, third) == {"classifier.weight", "classifier.bias"} == moved(start, second)
    assert moved(third, end) == set(start)


UNFREEZE = (
    *FAKE,
    "logger=none",
    "model.freeze=0-0",
    "model.drop_path_rate=0.2",
    "callbacks=[default,ema,unfreeze]",
    "callbacks.ema.decay=0.5",
    "trainer.max_epochs=3",
    "callbacks.last.every_n_train_steps=2",
)


@pytest.mark.parametrize(
    ("hook", "count"),
    [
        # Within the epoch before the release, and within that after it.
        pytest.param("on_train_batch_start", 4, marks=pytest.mark.exhaustive),
        ("on_train_batch_start", 8),
        pytest.param("on_validation_start", 1, marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.slow
def test_run_killed_before_or_after_the_release_ends_with_the_same_bits(compose_config, tmp_path, hook, count):
    def run(name, probe=None):
        return fit(compose_config(*UNFREEZE, f"output_dir={tmp_path / name}", "ckpt_path=last"), probe)

    run("whole")
    with pytest.raises(Killed):
        run("killed", KillAt(hook, count))
    run("killed")
    assert differences(last(tmp_path / "whole"), last(tmp_path / "killed")) == []
    shutil.rmtree(tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/training/test_staged.py has parameters that begin to train in two processes
def test_two_processes_release_what_one_releases(compose_config, tmp_path):
    """DDP averages the gradients of weights that were frozen when the run began."""
    recipe = (*UNFREEZE, "model.drop_path_rate=0", "callbacks=[default,unfreeze]", "augment=none", "optimizer=sgd")
    recipe = tuple(override for override in recipe if "ema" not in override)
    one = fit(compose_config(*recipe, f"output_dir={tmp_path / 'one'}"))
    two = compose_config(*recipe, "hardware=ddp_cpu", f"output_dir={tmp_path / 'two'}")
    (tmp_path / "two").mkdir()
    processes.launch("fvit.train", two, tmp_path / "two", 2)
    content = torch.load(tmp_path / "two" / "checkpoints" / "last.ckpt", weights_only=True)
    for name, weight in one.module.state_dict().items():
        torch.testing.assert_close(content["state_dict"][name], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("callbacks=unfreeze",), "callbacks.unfreeze has nothing to release; set model.freeze"),
        (
            ("callbacks=unfreeze", "model.freeze=backbone", "callbacks.unfreeze.epoch=2", "trainer.max_epochs=2"),
            "comes after the 2 epochs of this run",
        ),
        (("callbacks=unfreeze", "model.freeze=backbone", "callbacks.unfreeze.epoch=0"), "epoch=0 freezes nothing"),
    ],
)
def test_release_without_effect_is_refused(compose_config, overrides, message):
    with pytest.raises(Exception, match=message):
        fit(compose_config(*BARE, *overrides))
