"""Conversions in stages: what each stage trains and on what, mistakes, and resuming."""

import pytest
import torch
import torch.nn.functional as F

from fvit.config.errors import ConfigError
from fvit.launch import processes
from fvit.training import StagedDistiller
from tests.callbacks.test_resume_state import KillAt, Killed
from tests.stopped import NOISY, curve, differences, last

from .fitting import MODEL, Probe, fit

CONVERT = ("experiment=convert", "attention=linear", "scheduler.warmup_epochs=0", "trainer.log_every_n_steps=1")
DATA = ("data=fake", "data.num_images=64", "data.image_size=32", "global_batch_size=16")
PLAIN = (*CONVERT, *MODEL, *DATA, "logger=none", "callbacks=none", "augment=none", "trainer.max_epochs=2")
"""Eight updates: two in the stage of the attention, two in that of the features, four in that of the task."""


@pytest.fixture
def converted(compose_config, teacher_run):
    def make(*overrides, base=PLAIN):
        return compose_config(*base, f"distillation.teacher.path={teacher_run}", *overrides)

    return make


class Steps(Probe):
    """Records the weights before each step, and the batches."""

    def __init__(self):
        super().__init__()
        self.weights, self.batches = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.weights.append({name: p.detach().clone() for name, p in module.model.named_parameters()})
        self.batches.append(batch)


def test_each_stage_trains_its_parameters_at_its_rate(converted):
    stages = "distillation.stages"
    rates = [f"{stages}.attention.lr=4e-3", f"{stages}.features.lr=2e-3", f"{stages}.task.lr=1e-3"]
    probe = fit(converted(*rates, "scheduler=constant", "scheduler.warmup_epochs=0"), Steps())
    assert isinstance(probe.module, StagedDistiller)
    assert [rates[0] for rates in probe.rates] == pytest.approx([4e-3] * 2 + [2e-3] * 2 + [1e-3] * 4)
    moved = [
        {name for name in after if not torch.equal(before[name], after[name])}
        for before, after in zip(probe.weights, probe.weights[1:], strict=False)
    ]
    for names in moved[:2]:
        assert all(".attn." in name for name in names)
        assert {"blocks.0.attn.qkv.weight", "blocks.1.attn.proj.weight"} <= names
    for names in moved[2:4]:
        assert {"patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"} <= names
    assert "head.weight" in moved[5]
    facts = dict(probe.module.facts())
    assert facts["stage attention"] == "25 % of the run, lr 0.004, trains attention: attention"
    assert facts["stage task"] == "50 % of the run, lr 0.001, trains all: task, soft"


def test_attention_that_was_not_exchanged_stays_as_it_is(converted):
    probe = fit(converted("model.blocks=[1]", "trainer.max_epochs=1"), Steps())
    before, after = probe.weights[:2]
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("blocks.1.attn.") for name in moved)


def test_a_dry_run_has_a_step_of_the_first_stage(converted):
    probe = fit(converted("debug=fdr"), Steps())
    assert len(probe.losses) == 1
    assert probe.module.stages.at(0).name == "attention"


def test_losses_of_a_stage(converted):
    """In the first, the distance of attentions that are given the teacher's tokens, whatever the student's are."""
    probe = fit(converted("distillation.stages.attention.lr=1e-12"), Steps())
    module, (images, labels) = probe.module, probe.batches[0]
    student = module.model
    with torch.no_grad():
        student.load_state_dict(probe.weights[0])
        tokens, distances = module.teacher.model.patch_embed(images) + module.teacher.model.pos_embed, []
        for ours, theirs in zip(student.blocks, module.teacher.model.blocks, strict=True):
            normed = theirs.norm1(tokens)
            distances.append(F.mse_loss(ours.attn(normed), theirs.attn(normed)))
            tokens = theirs(tokens)
    assert probe.losses[0] == pytest.approx(10 * torch.stack(distances).mean().item(), rel=1e-4)
    student.load_state_dict(probe.weights[5])
    images, labels = probe.batches[5]
    with torch.no_grad():
        logits, expected = module(images), module.teacher(images)
        soft = 9 * F.kl_div(F.log_softmax(logits / 3, 1), F.softmax(expected / 3, 1), reduction="batchmean")
        assert probe.losses[5] == pytest.approx(
            (F.cross_entropy(logits, labels, label_smoothing=0.1) + soft).item(), rel=1e-4
        )


KILLS = (
    ("on_train_batch_start", 2),  # within the first stage
    ("on_train_batch_end", 2),  # at its end
    ("on_train_batch_start", 4),  # within the last
)


@pytest.mark.slow
def test_run_killed_within_and_between_stages_ends_with_the_same_bits(compose_config, tmp_path, teacher_run):
    base = (*NOISY, *DATA, "experiment=convert", "attention=linear", "trainer.max_epochs=3")
    base += ("model.num_heads=3", "callbacks.last.every_n_train_steps=1", f"distillation.teacher.path={teacher_run}")

    def run(name, probe=None):
        return fit(compose_config(*base, f"output_dir={tmp_path / name}", "ckpt_path=last"), probe)

    run("whole")
    kills = 0
    for moment in KILLS:
        try:
            run("killed", KillAt(*moment))
        except Killed:
            kills += 1
    assert kills == 3
    run("killed")
    assert differences(last(tmp_path / "whole"), last(tmp_path / "killed")) == []
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert last(tmp_path / "killed")["hyper_parameters"]["distillation"]["stages"]["task"]["length"] == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distillation.stages.task.losses=[task,hard]"], "losses has hard, which has no weight"),
        (["~distillation.stages.features"], "features has a weight, but no stage has features among its losses"),
        (["trainer.max_epochs=1", "global_batch_size=64"], "attention gets none of the 1 updates"),
        (["model.class_token=true"], "inputs=teacher needs a student with the teacher's width"),
    ],
)
def test_stages_that_do_not_fit_are_refused(converted, overrides, message):
    with pytest.raises(ValueError, match=message):
        fit(converted(*overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distillation.stages.task.losses=[tusk]"], "tusk"),
        (["distillation.stages.task.trains=heads"], "heads"),
        (["data.size_schedule=[16,32]"], "inputs=teacher compares attentions at data.img_size"),
    ],
)
def test_wrong_stages_are_refused(converted, overrides, message):
    with pytest.raises(ConfigError, match=message):
        converted(*overrides)


@pytest.mark.slow
def test_two_processes_equal_one(converted, tmp_path):
    """In the first stage, DDP expects gradients of parameters that have none, and of which none is used."""
    base = (*CONVERT, *MODEL, *DATA, "logger=none", "augment=none", "trainer.max_epochs=2", "optimizer=sgd")
    one = fit(converted(base=base))
    two = converted("hardware=ddp_cpu", f"output_dir={tmp_path / 'two'}", base=base)
    (tmp_path / "two").mkdir()
    processes.launch("fvit.train", two, tmp_path / "two", 2)
    weights = last(tmp_path / "two")["state_dict"]
    for name, weight in one.module.model.state_dict().items():
        torch.testing.assert_close(weights[f"model.{name}"], weight, rtol=0, atol=1e-5)
