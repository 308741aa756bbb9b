"""Whole runs with a teacher: the loss, what is trained, checkpoints, resuming, two processes, mistakes."""

import csv
import json
import shutil

import pytest
import timm
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import nn

from fvit.config import validation
from fvit.config.errors import ConfigError
from fvit.config.paths import conf_dir
from fvit.config.schemas.eval import Eval
from fvit.eval import evaluate
from fvit.launch import processes
from fvit.training import Classifier, Distiller
from fvit.training import teacher as teachers
from fvit.training.losses import hard_loss, soft_loss
from tests.tasks import with_classes

from .fitting import BARE, FAKE, Probe, fit

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

PRESETS = ("deit_soft", "deit_hard", "attention", "features", "blocks")
STILL = ("optimizer.lr=1e-12", "scheduler=constant", "scheduler.warmup_epochs=0", "augment=none")


@pytest.fixture
def distilled(compose_config, teacher_run):
    """The configuration of a run with the teacher."""

    def make(preset, *overrides, base=BARE):
        return compose_config(*base, f"distillation={preset}", f"distillation.teacher.path={teacher_run}", *overrides)

    return make


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class Watch(Probe):
    """Records batches, and the teacher's initial weights."""

    def __init__(self):
        super().__init__()
        self.batches, self.modes = [], set()

    def setup(self, trainer, module, stage):
        super().setup(trainer, module, stage)
        self.before = weights_of(module.teacher.model)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.batches.append(batch)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        super().on_before_optimizer_step(trainer, module, optimizer)
        self.modes.add(module.teacher.model.training)
        assert all(p.grad is None and not p.requires_grad for p in module.teacher.model.parameters())


# What is trained


@pytest.mark.parametrize(
    "preset", [p if p in ("deit_hard", "blocks") else pytest.param(p, marks=pytest.mark.slow) for p in PRESETS]
)
def test_student_is_trained_and_teacher_is_not(distilled, preset):
    config = distilled(preset, "augment=deit3")
    start = weights_of(fit(distilled(preset, *STILL)).module.model)
    probe = fit(config, Watch())
    assert isinstance(probe.module, Distiller)
    assert probe.modes == {False}
    after = probe.module.teacher.model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in probe.before.items())
    moved = {name for name, weight in probe.module.model.state_dict().items() if not torch.equal(weight, start[name])}
    assert {"head.weight", "blocks.0.attn.q.weight", "pos_embed"} <= moved
    assert not any(name.startswith("teacher") for name in probe.module.state_dict())
    assert all(module is not probe.module.teacher.model for module in probe.module.modules())


def test_batch_statistics_of_the_teacher_stay(compose_config, tmp_path):
    model = timm.create_model("test_resnet", num_classes=10)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    teacher = ("distillation.teacher.name=test_resnet", f"distillation.teacher.path={tmp_path / 'weights.pt'}")
    probe = fit(compose_config(*BARE, "distillation=deit_soft", *teacher), Watch())
    after = probe.module.teacher.model.state_dict()
    assert any(name.endswith("running_mean") for name in after)
    assert all(torch.equal(after[name], weight) for name, weight in model.state_dict().items())


# The loss


@pytest.mark.parametrize("augment", [pytest.param("none", marks=pytest.mark.slow), "deit3"])
def test_loss_is_the_weighted_sum(distilled, augment):
    weights = [
        f"distillation.{name}.weight={weight}" for name, weight in {"task": 0.25, "soft": 2, "hard": 0.5}.items()
    ]
    probe = fit(distilled("deit_soft", *STILL, f"augment={augment}", *weights, "loss.label_smoothing=0.3"), Watch())
    assert len(probe.losses) == 4
    for (images, targets), loss in zip(probe.batches, probe.losses, strict=True):
        with torch.no_grad():
            logits, expected = probe.module(images), probe.module.teacher(images)
            task = F.cross_entropy(logits, targets, label_smoothing=0.3)
            total = 0.25 * task + 2 * soft_loss(logits, expected, 3.0) + 0.5 * hard_loss(logits, expected)
        assert loss == pytest.approx(total.item(), rel=1e-5)


def test_losses_and_teacher_accuracy_are_logged(distilled, tmp_path):
    probe = fit(distilled("blocks", *STILL, "distillation.soft.weight=1", base=FAKE), Watch())
    with (tmp_path / "run" / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    def column(name):
        return [float(row[name]) for row in rows if row[name]]

    parts = {name: column(f"distill/{name}") for name in ("task", "soft", "attention", "features")}
    weights = {"task": 1, "soft": 1, "attention": 10, "features": 1}
    total = [sum(weights[name] * parts[name][step] for name in parts) for step in range(4)]
    assert column("train/loss") == pytest.approx(total, rel=1e-5)
    assert total == pytest.approx(probe.losses, rel=1e-5)
    correct = [(probe.module.teacher(images).argmax(dim=1) == labels) for images, labels in probe.batches]
    assert column("teacher/acc1") == pytest.approx([torch.cat(correct).float().mean().item()])
    assert dict(probe.module.facts())["losses"] == "task 1, soft 1, attention 10, features 1"


def test_student_with_the_teachers_weights_has_no_loss_against_it(compose_config, tmp_path):
    token = ("model.class_token=true", "model.global_pool=token", "attention=softmax", *STILL)
    first = fit(compose_config(*SAVED, *token))
    run = tmp_path / "run"
    teacher = (f"model.init_from={run}", "distillation=blocks", f"distillation.teacher.path={run}")
    metrics = fit(compose_config(*BARE, *token, *teacher, "distillation.soft.weight=1")).metrics
    for name in ("soft", "attention", "features"):
        assert metrics[f"distill/{name}"] == pytest.approx(0, abs=1e-6)
    assert metrics["distill/task"] == pytest.approx(metrics["train/loss"], abs=1e-4)
    assert metrics["cost/macs"] == first.metrics["cost/macs"]


def test_teacher_does_not_run_while_its_losses_have_no_weight(distilled, monkeypatch):
    """Four updates: at 0, 1/4, 1/2 and 3/4 of the run."""
    calls = []
    call = teachers.Teacher.__call__
    monkeypatch.setattr(teachers.Teacher, "__call__", lambda *args: calls.append(args) or call(*args))
    schedule = ("distillation.soft.schedule=linear", "distillation.soft.start=0.25", "distillation.soft.end=0.75")
    probe = fit(distilled("deit_soft", *STILL, *schedule), Watch())
    assert len(calls) == 2
    for step, weight in enumerate((0, 0.1, 0.05, 0)):
        images, targets = probe.batches[step]
        with torch.no_grad():
            logits = probe.module(images)
            soft = soft_loss(logits, call(probe.module.teacher, images), 3.0)
            total = 0.9 * F.cross_entropy(logits, targets, label_smoothing=0.1) + weight * soft
        assert probe.losses[step] == pytest.approx(total.item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true"])
def test_teacher_has_the_students_precision(distilled, precision):
    overrides = ("augment=deit3", "+trainer.limit_train_batches=1", "distillation.soft.weight=1")
    exact = fit(distilled("blocks", *overrides))
    probe = fit(distilled("blocks", *overrides, f"trainer.precision={precision}"))
    assert probe.losses == pytest.approx(exact.losses, rel=0.02)
    [dtype] = {parameter.dtype for parameter in probe.module.parameters()}
    assert {parameter.dtype for parameter in probe.module.teacher.model.parameters()} == {dtype}


# DeiT's distillation token


def test_distillation_token_learns_from_the_teacher_and_class_token_from_labels(compose_config, teacher_run):
    size = ("data=fake", "data.num_images=64", "data.image_size=32", "global_batch_size=16", "logger=none")
    model = ("model=timm", "model.name=deit_tiny_distilled_patch16_224", "+model.patch_size=8", "+model.depth=1")
    shape = ("+model.embed_dim=24", "+model.num_heads=3", "attention=additive")
    losses = ("distillation=deit_hard", f"distillation.teacher.path={teacher_run}")
    config = compose_config(*size, *model, *shape, *STILL, *losses, "trainer.max_epochs=1", "callbacks=none")
    probe = fit(config, Watch())
    (images, labels), loss = probe.batches[-1], probe.losses[-1]
    with torch.no_grad():
        of_labels, of_teacher = probe.module.train()(images)
        hard = F.cross_entropy(of_teacher, probe.module.teacher(images).argmax(dim=1))
        total = F.cross_entropy(of_labels, labels, label_smoothing=0.1) / 2 + hard / 2
        assert loss == pytest.approx(total.item(), rel=1e-5)
        torch.testing.assert_close(probe.module.eval()(images), (of_labels + of_teacher) / 2)


# Checkpoints

SAVED = (*FAKE, "logger=none", "trainer.max_epochs=2", "+trainer.limit_train_batches=2")


@pytest.mark.parametrize(
    ("preset", "callbacks"),
    [
        ("deit_soft", "[default,ema]"),
        ("blocks", "default"),
        pytest.param("deit_soft", "default", marks=pytest.mark.slow),
        pytest.param("blocks", "[default,ema]", marks=pytest.mark.slow),
    ],
)
def test_checkpoint_holds_only_the_student(distilled, tmp_path, preset, callbacks, monkeypatch):
    narrow = ("model.embed_dim=12", f"callbacks={callbacks}")
    probe = fit(distilled(preset, *narrow, base=SAVED))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    assert content["state_dict"].keys() == {f"model.{name}" for name in probe.module.model.state_dict()}
    assert set(content["matches"]) == {name for name in probe.module.state_dict() if name.startswith("matches.")}
    assert bool(content["matches"]) == (preset == "blocks")
    json.dumps(content["hyper_parameters"])

    # Loads without the teacher.
    monkeypatch.setattr(teachers.Teacher, "__init__", None)
    loaded = Classifier.load_from_checkpoint(path)
    assert all(torch.equal(loaded.state_dict()[name], weight) for name, weight in content["state_dict"].items())
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("eval", overrides=[f"ckpt_path={path}", f"output_dir={tmp_path / 'eval'}"])
    metrics = evaluate(validation.check(config, Eval))
    assert metrics["val/loss"] == content["metrics"]["val/loss"]


@pytest.mark.parametrize("callbacks", [pytest.param("default", marks=pytest.mark.exhaustive), "[default,ema]"])
@pytest.mark.slow
def test_resumed_run_equals_the_uninterrupted_one(distilled, tmp_path, callbacks):
    recipe = (
        "model.embed_dim=12",
        f"callbacks={callbacks}",
        "optimizer.lr=1e-3",
        "scheduler=constant",
        "augment=deit3",
    )
    length = ("scheduler.warmup_epochs=0",)
    whole = fit(distilled("blocks", *recipe, *length, f"output_dir={tmp_path / 'whole'}", base=SAVED))
    fit(distilled("blocks", *recipe, *length, "trainer.max_epochs=1", base=SAVED))
    rest = fit(distilled("blocks", *recipe, *length, f"ckpt_path={tmp_path / 'run'}", base=SAVED))
    assert len(whole.losses) == 4
    assert rest.losses == pytest.approx(whole.losses[2:], rel=1e-6)
    for name, weight in whole.module.state_dict().items():
        torch.testing.assert_close(rest.module.state_dict()[name], weight)
    assert any(name.startswith("matches.") for name in whole.module.state_dict())


@pytest.mark.slow
def test_resuming_with_another_distillation_is_rejected(distilled, compose_config, tmp_path):
    fit(distilled("deit_soft", base=SAVED))
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    longer = ("trainer.max_epochs=3", f"ckpt_path={path}", f"output_dir={tmp_path / 'on'}")
    with pytest.raises(ValueError, match=r"was trained with a teacher, and this run has none\. Resume with the same"):
        fit(compose_config(*SAVED, *longer))
    fit(compose_config(*SAVED))
    with pytest.raises(ValueError, match="was trained without a teacher, and this run has one"):
        fit(distilled("deit_soft", *longer, base=SAVED))


def test_missing_teacher_is_named_and_may_be_elsewhere(distilled, teacher_run, tmp_path):
    fit(distilled("deit_soft", base=SAVED))
    longer = ("trainer.max_epochs=3", f"ckpt_path={tmp_path / 'run'}")
    path = "distillation.teacher.path"
    with pytest.raises(FileNotFoundError, match=rf"{path}=.*gone does not exist"):
        fit(distilled("deit_soft", *longer, f"{path}={tmp_path / 'gone'}", base=SAVED))
    shutil.copy(teacher_run / "checkpoints" / "best.ckpt", tmp_path / "teacher.ckpt")
    probe = fit(distilled("deit_soft", *longer, f"{path}={tmp_path / 'teacher.ckpt'}", base=SAVED))
    assert probe.trainer.global_step == 6


def test_projectors_have_the_learning_rate_and_no_weight_decay(distilled):
    probe = fit(distilled("features", "model.embed_dim=12", "optimizer.weight_decay=0.3", "optimizer.layer_decay=0.5"))
    group = probe.trainer.optimizers[0].param_groups[-1]
    assert {id(p) for p in group["params"]} == {id(p) for p in probe.module.matches.parameters()}
    assert group["weight_decay"] == 0
    assert [rates[-1] for rates in probe.rates] == [max(rates) for rates in probe.rates]


class Projectors(Probe):
    """Records the gradients of the projectors."""

    def __init__(self):
        super().__init__()
        self.gradients = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        super().on_before_optimizer_step(trainer, module, optimizer)
        self.gradients.append([parameter.grad.abs().max().item() for parameter in module.matches.parameters()])


def test_projectors_have_gradients_of_zero_when_their_loss_has_ended(distilled):
    """For which DDP waits; two of four steps have the loss."""
    probe = fit(distilled("features", "model.embed_dim=12", "distillation.features.end=0.5"), Projectors())
    assert [min(step) > 0 for step in probe.gradients] == [True, True, False, False]
    assert {value for step in probe.gradients[2:] for value in step} == {0.0}


# Two processes, compilation


@pytest.mark.slow
@pytest.mark.exhaustive  # test_staged.py has two processes as well, and the test above the gradients
def test_two_processes_equal_one(distilled, tmp_path):
    """With projectors whose loss ends halfway, of which DDP still expects gradients."""
    recipe = ("model.embed_dim=12", "augment=none", "optimizer=sgd", "distillation.attention.end=0.5")
    rest = ("distillation.features.end=0.5", "distillation.soft.weight=1", "distillation.soft.end=0.5")
    one = fit(distilled("blocks", *recipe, *rest, base=SAVED))
    two = distilled("blocks", *recipe, *rest, "hardware=ddp_cpu", f"output_dir={tmp_path / 'two'}", base=SAVED)
    (tmp_path / "two").mkdir()
    processes.launch("fvit.train", two, tmp_path / "two", 2)
    content = torch.load(tmp_path / "two" / "checkpoints" / "last.ckpt", weights_only=True)
    for name, weight in one.module.state_dict().items():
        torch.testing.assert_close({**content["state_dict"], **content["matches"]}[name], weight, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.exhaustive
# Of torch.compile itself, on its first use.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_student_has_the_losses_of_an_eager_one(distilled):
    eager, compiled = (fit(distilled("blocks", f"compile={value}", *STILL)) for value in ("false", "true"))
    assert compiled.losses == pytest.approx(eager.losses, rel=1e-4)
    assert compiled.metrics["distill/attention"] == pytest.approx(eager.metrics["distill/attention"], rel=1e-3)
    assert eager.metrics["distill/attention"] > 0


# Mistakes


def test_classes_that_the_teacher_does_not_know_are_rejected_if_logits_are_compared(distilled):
    with pytest.raises(
        ValueError,
        match=r"the teacher vit_tiny.* has no .* 2 of the 12 classes .*: 10, 11\. .* Use a teacher that was trained on",
    ):
        fit(distilled("deit_soft", "data.num_classes=12"))
    metrics = fit(distilled("blocks", "data.num_classes=12")).metrics
    assert "teacher/acc1" not in metrics


def test_teacher_gives_the_logits_of_the_students_classes(distilled, teacher_run, tmp_path):
    """Of a student with fewer classes and further outputs, and of a teacher with its outputs in another order."""
    order = [9, 3, 1, 0, 2, 4, 5, 8, 7, 6]
    teacher = with_classes(teacher_run, tmp_path / "teacher.ckpt", [str(name) for name in order], order)
    student = ("data.num_classes=7", "model.num_classes=8", *STILL, "distillation.soft.weight=1")
    first = fit(distilled("deit_soft", *student), Watch())
    other = fit(distilled("deit_soft", *student, f"distillation.teacher.path={teacher}"), Watch())
    assert other.losses == pytest.approx(first.losses, rel=1e-5)
    assert other.metrics["teacher/acc1"] == first.metrics["teacher/acc1"]
    images, targets = first.batches[-1]
    with torch.no_grad():
        logits = first.module(images)
        soft = soft_loss(logits[:, :7], first.module.teacher.model(images)[:, :7], 3.0)
        task = F.cross_entropy(logits, targets, label_smoothing=0.1)
    assert first.losses[-1] == pytest.approx((0.9 * task + soft).item(), rel=1e-5)
    assert "7 of its 10 outputs, by class name" in dict(other.module.facts())["teacher"]


def test_a_teacher_without_names_of_classes_is_warned_of(distilled, teacher_run, tmp_path, caplog):
    nameless = f"distillation.teacher.path={with_classes(teacher_run, tmp_path / 'teacher.ckpt', None)}"
    fit(distilled("deit_soft", nameless))
    assert "the teacher records no names of classes: its outputs are taken in the dataset's order" in caplog.text
    caplog.clear()
    fit(distilled("blocks", nameless))  # compares no logits
    assert "names of classes" not in caplog.text


def test_timm_teacher_has_its_outputs_in_the_order_of_wordnet_ids(monkeypatch):
    create_model = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, pretrained=False, **kwargs: create_model(*args, **kwargs))
    losses = {
        name: {"weight": weight, "schedule": "constant", "start": 0.0, "end": 1.0}
        for name, weight in (("task", 1), ("soft", 0), ("hard", 1), ("attention", 0), ("features", 0))
    }
    teacher = {"teacher": {"name": "test_vit", "path": None}, **losses}
    student = {"name": "test_vit"}, 160, 3, {"opt": "sgd"}, {}, {"name": "cross_entropy"}, teacher, [0.5] * 3, [0.5] * 3
    module = Distiller(*student, classes=["tiger shark", "goldfish", "tench"])
    assert module.teacher.outputs.tolist() == [3, 1, 0]
    with pytest.raises(ValueError, match=r"the teacher test_vit has no .* 1 of the 3 classes .*: okapi"):
        Distiller(*student, classes=["okapi", "goldfish", "tench"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distillation.teacher.path=null"], "distillation needs a teacher: distillation.teacher.path=… "),
        (["distillation.soft.weight=0"], "a teacher has no effect without a loss: set distillation.LOSS.weight"),
        (["distillation.soft.weight=-1"], "distillation.soft.weight=-1"),
        (["distillation.soft.temperature=0"], "distillation.soft.temperature=0"),
        (["distillation.soft.schedule=step"], "distillation.soft.schedule='step'"),
        (["distillation.soft.end=1.5"], "distillation.soft.end=1.5"),
        (["distillation.soft.start=0.5", "distillation.soft.end=0.5"], "from start=0.5 to end=0.5 has no effect"),
        (["+distillation.soft.tau=1"], "unknown key distillation.soft.tau=1"),
        (["distillation.features.blocks=[0]"], "distillation.features.blocks has no effect with place=final"),
        (["model.init_from=a", "model.pretrained=true"], "model.init_from has no effect with model.pretrained"),
    ],
)
def test_invalid_configurations_are_rejected(compose_config, overrides, message):
    with pytest.raises(ConfigError) as caught:
        compose_config("distillation=deit_soft", "distillation.teacher.path=here", *overrides)
    assert message in str(caught.value)
