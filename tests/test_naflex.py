"""data.naflex: images that keep their aspect ratio, from files to a trained NaFlexVit with exchanged attention."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import fvit
from fvit.config.errors import ConfigError
from fvit.config.schemas.eval import Eval
from fvit.config.schemas.export import Export
from fvit.data import ImageDataModule
from fvit.eval import evaluate
from fvit.eval import load as load_data
from fvit.export import export
from fvit.models.naflex import unpack
from fvit.training.trained import open_trained
from tests.data.pictures import jpeg
from tests.tasks import checked, trained

MODEL = (
    "model=timm",
    "model.name=naflexvit_base_patch16_gap",
    *(
        f"+model.{name}={value}"
        for name, value in {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}.items()
    ),
    "+model.fix_init=false",
    "+model.use_key_only_attn_mask=true",
)
SHAPES = [(60, 40), (40, 60), (100, 30), (48, 48)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of noise in four shapes."""
    root = tmp_path_factory.mktemp("photos")
    for split, images in (("train", 8), ("val", 5)):
        for label, name in enumerate("abc"):
            for index in range(images):
                place = root / split / name / f"{index}.jpg"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(jpeg(*SHAPES[index % 4], seed=100 * label + index + 50 * (split == "val")))
    return root


def overrides(photos):
    return (
        *("data=folder", f"data.root={photos}", "data.img_size=32", "data.naflex=8", "data.num_workers=0"),
        *("global_batch_size=8", "trainer.max_epochs=2", "scheduler.warmup_epochs=0", "logger=none", *MODEL),
    )


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), *overrides(photos), "attention=linear")


def test_a_batch_is_evaluated_as_each_image_alone_without_padding(run, tmp_path):
    metrics = evaluate(checked("eval", Eval, f"output_dir={tmp_path}", f"ckpt_path={run}"))
    opened = open_trained(run, None, naflex=True)
    data, module = load_data(opened, {}), opened.module.eval()
    packed, labels = data.batch_transform(data.val_images(range(15)), False, torch.float32)
    assert len({int(count) for count in packed[..., -1].sum(dim=1)}) > 1  # lengths differ, so that some have padding
    with torch.no_grad():
        alone = torch.cat([module.model(unpack(one[one[:, -1] > 0][None])) for one in packed])
        torch.testing.assert_close(module(packed), alone, rtol=0, atol=1e-6 * alone.abs().max().item())
    assert metrics["val/loss"] == pytest.approx(F.cross_entropy(alone, labels).item(), rel=1e-5)
    assert metrics["val/acc1"] == pytest.approx((alone.argmax(1) == labels).float().mean().item())


def test_sizes_may_grow(photos, tmp_path):
    folder = trained(tmp_path, *overrides(photos), "attention=softmax", "data.size_schedule=[16,32]")
    assert (folder / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.slow
def test_resumed_run_ends_with_the_same_weights(photos, tmp_path):
    options = (*overrides(photos), "attention=relu", "scheduler.sched=constant")
    whole, parts = trained(tmp_path / "whole", *options), tmp_path / "parts"
    trained(parts, *options, "trainer.max_epochs=1")
    trained(parts, *options, f"ckpt_path={parts}")
    weights, again = (torch.load(one / "checkpoints" / "last.ckpt", weights_only=True) for one in (whole, parts))
    assert (weights["epoch"], again["epoch"]) == (1, 1)
    assert all(torch.equal(again["state_dict"][name], value) for name, value in weights["state_dict"].items())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["attention=pool"], "PoolMixer needs one fixed grid, which NaFlexVit does not have"),
        (["attention=fnet"], "FNet transforms all tokens together and cannot hide one"),
        (["model=vit_atto", "data.naflex=8"], "data.naflex=8 needs a NaFlexVit"),
        (["augment=deit"], "data.naflex has no mixup, cutmix or erasing"),
        (
            ["distillation=deit_soft", "distillation.teacher.name=deit_tiny_patch16_224"],
            "data.naflex=8 cannot be combined with distillation",
        ),
        (["logger=wandb"], "with data.naflex set logger.wandb.media=0"),
    ],
)
def test_what_cannot_take_such_images_is_refused_by_name(photos, tmp_path, more, message):
    kept = [one for one in overrides(photos) if "model" not in one] if "model=vit_atto" in more else overrides(photos)
    with pytest.raises((ValueError, ConfigError), match=message):
        trained(tmp_path, *kept, *more)


def test_programs_that_show_square_images_refuse_such_a_model(run, tmp_path):
    calls = (
        lambda: fvit.load(run),
        lambda: evaluate(checked("eval", Eval, f"output_dir={tmp_path}", f"ckpt_path={run}", "probe=knn")),
        lambda: evaluate(checked("eval", Eval, f"output_dir={tmp_path}", f"ckpt_path={run}", "tta=flip")),
        lambda: export(checked("export", Export, f"ckpt_path={run}", "format=safetensors", f"out={tmp_path / 'out'}")),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"was trained with data\.naflex=8"):
            call()


# The contract of the loader


def batches(photos, world=1, rank=0, resumed=None):
    """The training batches of one rank in the second epoch."""
    augment = {"transform": {"no_aug": False, "auto_augment": "rand-m9-mstd0.5-inc1"}}
    data = ImageDataModule(
        "folder", img_size=32, batch_size=8 // world, naflex=8, augment=augment, root=str(photos), seed=3
    )
    data.trainer = SimpleNamespace(world_size=world, global_rank=rank, num_nodes=1, overfit_batches=0, training=True)
    data.load_state_dict({"epoch": 1, "position": 0, "images": 24, **(resumed or {})})
    return list(data.train_dataloader())


def content(*ranks):
    """The samples of each step over all ranks."""
    return [
        sorted(sample.numpy().tobytes() for batch in step for sample in batch.images)
        for step in zip(*ranks, strict=True)
    ]


def test_samples_depend_on_seed_epoch_and_position_alone(photos):
    whole = batches(photos)
    assert len(whole) == 3
    assert content(whole) == content(batches(photos))
    assert content(whole) == content(batches(photos, 2, 0), batches(photos, 2, 1))
    assert content(whole)[2:] == content(batches(photos, resumed={"position": 16}))
