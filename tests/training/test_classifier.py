import copy
import csv
import math

import pytest
import torch
import torch.nn.functional as F

from fvit.config.errors import RunError
from fvit.data.formats.decode import choose
from fvit.data.transforms.image import EvalTransform
from fvit.training import Classifier
from fvit.training.metrics import StepMeans

from ..data.pictures import jpeg
from .fitting import BARE, DIGITS, FAKE, LENGTH, MODEL, Probe, fit

OPTIMIZERS = (
    "adamw",
    "muon",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("lamb", "lion", "sgd")),
)


def classifier(config, num_classes=10):
    options = (config[group] for group in ("optimizer", "scheduler", "loss"))
    return Classifier(config["model"], config["data"]["img_size"], num_classes, *options)


def groups_by_name(probe):
    """The parameter group of each of the model's parameters."""
    names = {id(parameter): name for name, parameter in probe.module.model.named_parameters()}
    groups = probe.trainer.optimizers[0].param_groups
    pairs = [(names[id(parameter)], group) for group in groups for parameter in group["params"]]
    assert sorted(name for name, _ in pairs) == sorted(names.values()), "each parameter is in one group"
    return dict(pairs)


# The optimizer.


@pytest.mark.parametrize("layer_decay", [pytest.param("null", marks=pytest.mark.slow), "0.5"])
def test_biases_norms_and_embeddings_have_no_weight_decay(compose_config, layer_decay):
    tokens = ("model.class_token=true", "model.global_pool=token")
    probe = fit(compose_config(*BARE, *tokens, f"optimizer.layer_decay={layer_decay}", "optimizer.weight_decay=0.3"))
    decay = {name: group["weight_decay"] for name, group in groups_by_name(probe).items()}
    for name in ("pos_embed", "cls_token", "norm.weight", "norm.bias", "head.bias", "blocks.0.norm1.weight"):
        assert decay[name] == 0, name
    for name in ("head.weight", "patch_embed.proj.weight", "blocks.1.mlp.fc1.weight", "blocks.0.attn.q.weight"):
        assert decay[name] == 0.3, name
    for name, parameter in probe.module.model.named_parameters():
        assert (decay[name] == 0) == (parameter.ndim <= 1 or name in ("pos_embed", "cls_token")), name


@pytest.mark.parametrize(
    "sched", ["cosine", *(pytest.param(sched, marks=pytest.mark.slow) for sched in ("wsd", "constant"))]
)
def test_layer_decay_scales_the_learning_rate_by_depth(compose_config, sched):
    config = compose_config(
        *BARE, "optimizer.layer_decay=0.5", f"scheduler={sched}", "scheduler.warmup_epochs=1", "trainer.max_epochs=3"
    )
    probe = fit(config)
    scale = {name: group["lr_scale"] for name, group in groups_by_name(probe).items()}
    assert scale["head.weight"] == scale["head.bias"] == 1.0
    assert scale["blocks.1.mlp.fc1.weight"] == scale["blocks.1.attn.q.weight"] == 0.5
    assert scale["blocks.0.mlp.fc1.weight"] == scale["blocks.0.norm1.bias"] == 0.25
    assert scale["patch_embed.proj.weight"] == scale["pos_embed"] == 0.125

    group_scales = [group["lr_scale"] for group in probe.trainer.optimizers[0].param_groups]
    plain = fit({**config, "optimizer": {**config["optimizer"], "layer_decay": None}})
    for rates, plain_rates in zip([*probe.rates, probe.final_rates], [*plain.rates, plain.final_rates], strict=True):
        assert rates == pytest.approx([scale * plain_rates[0] for scale in group_scales], rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_optimizer_lowers_the_loss_of_one_batch(compose_config, optimizer):
    probe = fit(
        compose_config(
            *BARE,
            f"optimizer={optimizer}",
            "scheduler=constant",
            "augment=none",
            "loss.label_smoothing=0",
            "data.num_images=16",
            "trainer.max_epochs=6",
        )
    )
    assert len(probe.losses) == 6
    assert probe.losses[-1] < probe.losses[0] - 1e-3


def test_betas_reach_the_optimizer(compose_config):
    probe = fit(compose_config(*BARE, "optimizer.betas=[0.8,0.95]"))
    assert {tuple(group["betas"]) for group in probe.trainer.optimizers[0].param_groups} == {(0.8, 0.95)}


# The schedule.

RATE, WARM, LEAST = 2e-3, 1e-5, 1e-4


def expected_rate(sched, update, updates, warmup):
    """A linear warmup, then a cosine over the whole run, a plateau with a decay, or a plateau."""
    if update < warmup:
        return WARM + (RATE - WARM) * update / warmup
    if sched == "cosine":
        return LEAST + (RATE - LEAST) * (1 + math.cos(math.pi * update / updates)) / 2
    decay = round(0.2 * (updates - warmup))
    if sched == "constant" or update <= updates - decay:
        return RATE
    return LEAST + (RATE - LEAST) * (1 - math.sqrt((update - updates + decay) / decay))


@pytest.mark.parametrize(
    ("sched", "overrides", "updates", "warmup"),
    [
        ("cosine", ["trainer.max_epochs=4", "scheduler.warmup_epochs=1"], 16, 4),
        pytest.param(
            "cosine", ["trainer.max_epochs=5", "+trainer.limit_train_batches=3"], 15, 0, marks=pytest.mark.slow
        ),
        # Seven batches per epoch in steps of two: the last one does not fill a step and is left out.
        (
            "cosine",
            ["trainer.max_epochs=3", "scheduler.warmup_epochs=1", "data.num_images=56", "micro_batch_size=8"],
            9,
            3,
        ),
        pytest.param(
            "cosine",
            ["trainer.max_epochs=5", "scheduler.warmup_epochs=0.5", "+trainer.max_steps=11"],
            11,
            2,
            marks=pytest.mark.slow,
        ),
        ("cosine", ["trainer.max_epochs=null", "scheduler.warmup_epochs=1", "+trainer.max_steps=11"], 11, 4),
        ("cosine", ["trainer.max_epochs=8", "scheduler.warmup_epochs=null"], 32, 4),
        pytest.param("wsd", ["trainer.max_epochs=5", "scheduler.warmup_epochs=2"], 20, 8, marks=pytest.mark.slow),
        ("wsd", ["trainer.max_epochs=5", "scheduler.warmup_epochs=0.5", "+trainer.max_steps=11"], 11, 2),
        ("constant", ["trainer.max_epochs=2", "scheduler.warmup_epochs=1"], 8, 4),
    ],
)
def test_learning_rate_of_each_update(compose_config, sched, overrides, updates, warmup):
    rates = [f"optimizer.lr={RATE}", f"scheduler.warmup_lr={WARM}"]
    rates += [] if sched == "constant" else [f"scheduler.min_lr={LEAST}"]
    probe = fit(compose_config(*BARE, f"scheduler={sched}", *rates, *overrides))
    assert probe.trainer.global_step == updates
    found = [rate for rate, *_ in [*probe.rates, probe.final_rates]]
    expected = [expected_rate(sched, update, updates, warmup) for update in range(updates + 1)]
    assert found == pytest.approx(expected, rel=1e-6)
    assert found[-1] == pytest.approx(RATE if sched == "constant" else LEAST)


def test_length_in_time_alone_is_refused(compose_config):
    """A schedule needs to know its length."""
    with pytest.raises(ValueError, match="max_epochs"):
        fit(compose_config(*BARE, "trainer.max_epochs=null", "+trainer.max_time=00:00:01:00"))


@pytest.mark.parametrize(
    "sched", ["cosine", *(pytest.param(sched, marks=pytest.mark.slow) for sched in ("wsd", "constant"))]
)
def test_fast_dev_run_works_with_each_schedule(compose_config, sched):
    probe = fit(compose_config(*BARE, f"scheduler={sched}", "debug=fdr", "scheduler.warmup_epochs=5"))
    assert probe.trainer.global_step == 1


# The metrics.


@pytest.mark.parametrize("eval_batch_size", [pytest.param(7, marks=pytest.mark.slow), 100])
def test_validation_equals_a_plain_loop_over_all_images(compose_config, eval_batch_size):
    """The last batch is smaller than the others: 360 images are 51 batches of 7 and 3, or 3 of 100 and 60."""
    limits = ("optimizer.lr=1e-2", "augment=none", "trainer.max_epochs=3", f"data.eval_batch_size={eval_batch_size}")
    probe = fit(compose_config(*DIGITS, "logger=none", "callbacks=none", *limits))
    model = copy.deepcopy(probe.module.model).double().eval()
    transform = EvalTransform(choose("pil"), 32, crop_pct=1.0)
    val = probe.data.source.val
    correct = {1: 0, 5: 0}
    loss = 0.0
    for index in range(360):
        label = int(val.labels[index])
        pixels = transform(val.read(index)).permute(2, 0, 1).double() / 255
        with torch.no_grad():
            [logits] = model(((pixels - 0.5) / 0.5).unsqueeze(0))
        loss -= logits.log_softmax(dim=0)[label].item()
        for k in correct:
            correct[k] += label in logits.topk(k).indices
    assert 40 < correct[1] < correct[5] < 360, "the model is neither at chance nor perfect"
    assert probe.metrics["val/acc1"] == pytest.approx(correct[1] / 360, abs=1e-7)
    assert probe.metrics["val/acc5"] == pytest.approx(correct[5] / 360, abs=1e-7)
    assert probe.metrics["val/loss"] == pytest.approx(loss / 360, abs=1e-5)


def test_validation_and_prediction_compare_the_selected_outputs_alone(compose_config, monkeypatch):
    module, images = classifier(compose_config(*BARE)).eval(), torch.randn(4, 3, 32, 32)
    monkeypatch.setattr(Classifier, "log_dict", lambda *args, **options: None)
    module.select([3, 7, 1])
    with torch.no_grad():
        expected = module(images)[:, [3, 7, 1]]
        assert torch.equal(module.validation_step((images, expected.argmax(dim=1)), 0), expected)
        assert torch.equal(module.predict_step((images, expected.argmax(dim=1)), 0), expected)
    assert module.val_metrics["acc1"].compute() == 1


@pytest.mark.parametrize("num_classes", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (3, 5))])
def test_top_5_of_few_classes(compose_config, num_classes):
    metrics = fit(compose_config(*BARE, f"data.num_classes={num_classes}")).metrics
    assert metrics["val/acc5"] == 1.0
    assert metrics["val/acc1"] < 1.0


class Batches(Probe):
    """Keeps the training batches."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.batches.append(batch)


# Without a learning rate the model stays that of the first step.
STILL = ("optimizer.lr=1e-12", "scheduler=constant", "scheduler.warmup_epochs=0")


@pytest.mark.parametrize("augment", [pytest.param("none", marks=pytest.mark.slow), "deit3"])
def test_training_accuracy_is_over_the_epoch(compose_config, augment):
    probe = fit(compose_config(*BARE, *STILL, f"augment={augment}"), Batches())
    correct = 0
    for images, targets in probe.batches:
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        with torch.no_grad():
            correct += (probe.module(images).argmax(dim=1) == labels).sum().item()
    assert len(probe.batches) == 4
    assert probe.metrics["train/acc1"] == pytest.approx(correct / 64, abs=1e-7)


@pytest.mark.parametrize("augment", [pytest.param("none", marks=pytest.mark.slow), "deit3"])
def test_training_loss_is_smoothed_once(compose_config, augment):
    probe = fit(compose_config(*BARE, *STILL, f"augment={augment}", "loss.label_smoothing=0.3"), Batches())
    for (images, targets), loss in zip(probe.batches, probe.losses, strict=True):
        target = F.one_hot(targets, 10) if targets.ndim == 1 else targets
        with torch.no_grad():
            expected = -((0.7 * target + 0.03) * probe.module(images).log_softmax(dim=1)).sum(dim=1).mean()
        assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_csv_holds_every_metric(compose_config, tmp_path):
    probe = fit(compose_config(*FAKE, "trainer.max_epochs=2", "optimizer.layer_decay=0.5"))
    with (tmp_path / "run" / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    def column(name):
        return [float(row[name]) for row in rows if row[name]]

    assert column("train/loss") == pytest.approx(probe.losses, rel=1e-6)
    assert column("lr") == pytest.approx([max(rates) for rates in probe.rates], rel=1e-6)
    assert len(column("lr")) == 8
    for name in ("train/acc1", "val/loss", "val/acc1", "val/acc5"):
        assert len(column(name)) == 2, name
    for name in ("memory/peak_gib", "grad_norm"):
        assert len(column(name)) == 8, name
    for name in ("throughput/images_per_s", "throughput/data_wait", "progress/seconds_left"):
        assert len(column(name)) == 6, name  # two batches of warmup
    # Metrics of an epoch come with what they can be plotted over.
    assert column("progress/images_seen") == [16 * step for step in (1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 8, 8)]
    hours = column("progress/device_hours")
    assert len(hours) == 12
    assert 0 < hours[0] <= hours[-1] < 0.1
    assert hours == sorted(hours)
    for name in ("val/loss", "val/acc1", "val/acc5"):
        assert column(name)[-1] == pytest.approx(probe.metrics[name], rel=1e-6)


def test_validation_loss_is_cross_entropy_for_every_training_loss(compose_config):
    """Label smoothing or another loss must not make runs incomparable."""
    losses = [("loss=cross_entropy", "loss.label_smoothing=0.5"), ("loss=bce", "loss.smoothing=0.2")]
    found = [fit(compose_config(*BARE, *STILL, *loss)).metrics["val/loss"] for loss in losses]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_step_means_are_over_micro_batches_and_ranks(monkeypatch):
    # Another rank whose losses are twice as large.
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(3))
    means = StepMeans()
    for losses in ((1.0, 10.0), (2.0, 20.0)):
        means.add({"a": torch.tensor(losses[0], requires_grad=True), "b": torch.tensor(losses[1])})
    found = means.take(world_size=2)
    assert {name: value.item() for name, value in found.items()} == {"a": 2.25, "b": 22.5}
    assert not found["a"].requires_grad
    means.add({"a": torch.tensor(4.0)})
    assert {name: value.item() for name, value in means.take(world_size=1).items()} == {"a": 4.0}


def test_loss_of_a_step_does_not_depend_on_accumulation(compose_config, tmp_path):
    columns = []
    for micro in (16, 4):
        folder = f"output_dir={tmp_path / str(micro)}"
        fit(compose_config(*FAKE, "augment=deit", "callbacks=none", f"micro_batch_size={micro}", folder))
        with (tmp_path / str(micro) / "csv" / "metrics.csv").open(newline="") as file:
            columns.append([float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]])
    assert len(columns[0]) == 4
    assert columns[1] == pytest.approx(columns[0], rel=1e-5)


# The head.


def test_head_narrower_than_the_dataset_is_refused(compose_config):
    with pytest.raises(ValueError, match=r"10 classes and the head 5 outputs; set model\.num_classes=10, or null"):
        classifier(compose_config(*BARE, "model.num_classes=5"))


def test_head_follows_the_dataset(compose_config):
    assert classifier(compose_config(*BARE), num_classes=7)(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize(
    ("loss", "augment"),
    [
        ("cross_entropy", "light"),
        ("bce", "deit3"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("cross_entropy", "deit3"), ("bce", "light"))),
    ],
)
def test_head_wider_than_the_dataset_trains(compose_config, loss, augment):
    probe = fit(compose_config(*BARE, "model.num_classes=20", f"loss={loss}", f"augment={augment}"))
    assert probe.module(torch.zeros(1, 3, 32, 32)).shape == (1, 20)
    assert math.isfinite(probe.losses[-1])
    assert probe.metrics["val/acc5"] <= 1


# The step.


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_each_precision_trains_with_mixed_labels(compose_config, loss):
    overrides = ("augment=deit3", f"loss={loss}", "+trainer.limit_train_batches=1")
    exact = fit(compose_config(*BARE, *overrides))
    for precision, dtype in [("bf16-mixed", "float32"), ("bf16-true", "bfloat16"), ("64-true", "float64")]:
        probe = fit(compose_config(*BARE, *overrides, f"trainer.precision={precision}"))
        assert {parameter.dtype for parameter in probe.module.parameters()} == {getattr(torch, dtype)}
        assert precision == "64-true" or probe.losses != exact.losses, "half precision rounds differently"
        assert probe.losses == pytest.approx(exact.losses, rel=0.02)


class Gradients(Probe):
    """Records the norm of the gradients of each update."""

    def __init__(self):
        super().__init__()
        self.norms = []

    def on_train_batch_end(self, trainer, module, *args):
        squares = [parameter.grad.square().sum() for parameter in module.parameters()]
        self.norms.append(torch.stack(squares).sum().sqrt().item())


def test_gradients_are_clipped(compose_config):
    free = fit(compose_config(*BARE, "trainer.gradient_clip_val=null"), Gradients())
    clipped = fit(compose_config(*BARE, "trainer.gradient_clip_val=0.01"), Gradients())
    assert min(free.norms) > 0.1
    assert clipped.norms == pytest.approx([0.01] * 4, rel=1e-3)


@pytest.mark.parametrize("micro_batch_size", [pytest.param(8, marks=pytest.mark.slow), 4])
def test_accumulation_equals_the_whole_batch(compose_config, micro_batch_size):
    overrides = ("optimizer=sgd", "augment=none")
    whole = fit(compose_config(*BARE, *overrides))
    parts = fit(compose_config(*BARE, *overrides, f"micro_batch_size={micro_batch_size}"))
    assert len(parts.losses) == len(whole.losses) * 16 // micro_batch_size
    assert parts.trainer.global_step == whole.trainer.global_step == 4
    assert parts.rates == whole.rates
    start = classifier(compose_config(*BARE)).state_dict()
    for name, weight in whole.module.state_dict().items():
        torch.testing.assert_close(parts.module.state_dict()[name], weight, rtol=0, atol=1e-5)
        assert weight.shape == start[name].shape
    moved = (whole.module.model.head.weight - start["model.head.weight"]).abs().max()
    assert moved > 1e-3, "far more than the tolerance"


def test_seeded_run_is_reproducible_to_the_bit(compose_config):
    overrides = ("augment=deit3", "model.drop_rate=0.1", "model.drop_path_rate=0.1")
    first, again = fit(compose_config(*BARE, *overrides)), fit(compose_config(*BARE, *overrides))
    other = fit(compose_config(*BARE, *overrides, "seed=1"))
    assert again.losses == first.losses
    for name, weight in first.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], weight)
    assert other.losses != first.losses


def test_validation_without_a_readable_image_is_an_error(compose_config, tmp_path):
    for split, content in (("train", jpeg()), ("val", b"")):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(2):
                (tmp_path / split / name / f"{index}.jpg").write_bytes(content)
    data = ("data=folder", f"data.root={tmp_path}", "data.img_size=32", "data.num_workers=0", "global_batch_size=4")
    config = compose_config(*MODEL, *LENGTH, *data, "logger=none", "callbacks=none")
    with pytest.raises(
        RunError, match=r"none of the validation images could be read; the last: .*val/b/1\.jpg is empty"
    ):
        fit(config)
