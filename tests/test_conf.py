"""Every option of every config group composes, passes the schema, and builds what it names."""

import inspect
import re
from types import SimpleNamespace

import pytest
import torch
import yaml
from hydra.utils import instantiate
from timm.data import Mixup as TimmMixup
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing as TimmErasing
from timm.scheduler import create_scheduler_v2

from fvit import attention
from fvit.config.batch_plan import plan_batches
from fvit.config.paths import conf_dir
from fvit.data import ImageDataModule
from fvit.data.transforms.draws import Mixup, RandomErasing
from fvit.data.transforms.image import TrainTransform
from fvit.training import Classifier, build_loss, runtime_flags
from fvit.training.distillation import LossWeight, TokenMatch
from fvit.training.losses import soft_loss
from fvit.training.optimization import build_optimizer
from fvit.training.sharding import blocks
from fvit.training.trainer import build_trainer

from .attention.cases import CASES

WITH_TEACHER = ("deit_soft", "deit_hard", "attention", "features", "blocks", "staged", "digits_distilled", "convert")
# What an option needs to compose.
NEEDS = {
    "mixed": "model.attention.layers=[additive*2,softmax*2]",
    "own": "model.attention.name=fvit.attention.zoo.linear:Linear",
    "timm": "model.name=convnextv2_atto",
    **dict.fromkeys(("vip_small14", "vip_small7", "vip_medium7", "vip_large7"), "data.img_size=28"),
    "optuna": "~callbacks.pruning",  # its trial is the number of Hydra's job, of which there is none
    **dict.fromkeys(("torchrun", "slurm"), "trainer={devices:1,num_nodes:1}"),
    **dict.fromkeys(WITH_TEACHER, "distillation.teacher.path=RUN"),
}


def _options(group):
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def _needs(option):
    return [NEEDS[option]] if option in NEEDS else []


def _meta_classifier(config, num_classes=10):
    with torch.device("meta"):
        return Classifier(
            config["model"],
            config["data"]["img_size"],
            num_classes,
            config["optimizer"],
            config["scheduler"],
            config["loss"],
        )


def _written(group, option):
    return yaml.safe_load((conf_dir() / group / f"{option}.yaml").read_text())


@pytest.mark.parametrize(
    ("group", "option"),
    [(group, option) for group in ("data", "debug", "sweep", "logger") for option in _options(group)],
)
def test_every_option_composes(compose_config, group, option):
    needs = [] if (group, option) == ("sweep", "blocks") else _needs(option)  # there is a distillation=blocks
    assert compose_config(f"{group}={option}", *needs)


@pytest.mark.parametrize("name", attention.names())
def test_every_mechanism_has_a_config_with_the_constructors_defaults(name):
    written = _written("attention", name)
    assert written.pop("name") == name
    parameters = inspect.signature(attention.get(name)).parameters
    assert {option: parameters[option].default for option in written} == written


@pytest.mark.parametrize("option", sorted(set(_options("attention")) - {*attention.names(), "native", "mixed", "own"}))
def test_every_set_of_options_is_compared_with_a_reference(option):
    chosen = _written("attention", option)
    key = chosen.pop("name")
    defaults = {name: p.default for name, p in inspect.signature(attention.get(key)).parameters.items()}
    assert {**defaults, **chosen} != defaults
    assert {**defaults, **chosen} in [{**defaults, **case.options} for case in CASES if case.key == key]


# The mechanisms themselves also go into a model in tests/models/test_exchange.py.
def _marks(index, option):
    """Mechanisms without options are compared with their constructors above, and trained by tests/models."""
    if option in attention.names():
        return [pytest.mark.slow, pytest.mark.exhaustive]
    return [pytest.mark.slow] if index % 4 else []


@pytest.mark.parametrize(
    "option",
    [pytest.param(option, marks=_marks(index, option)) for index, option in enumerate(_options("attention"))],
)
def test_every_attention_goes_into_a_model(compose_config, option):
    config = compose_config(f"attention={option}", "data=fake", *_needs(option))
    module = _meta_classifier(config)
    assert module(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


def _thinned(index):
    return [pytest.mark.slow, *([pytest.mark.exhaustive] if index % 3 else [])]


# The baselines are counted at their own size in test_baselines.py.
@pytest.mark.parametrize(
    "option",
    [
        pytest.param(option, marks=[] if option.startswith(("vit", "timm", "clip")) else _thinned(index))
        for index, option in enumerate(_options("model"))
    ],
)
def test_every_model_maps_images_to_logits(compose_config, option):
    config = compose_config(f"model={option}", "data=fake", *_needs(option))
    size = config["data"]["img_size"]
    module = _meta_classifier(config)
    assert module(torch.empty(2, 3, size, size, device="meta")).shape == (2, 10)


@pytest.mark.parametrize(
    "option",
    [
        pytest.param(option, marks=[pytest.mark.slow] if index % 3 else [])
        for index, option in enumerate(_options("experiment"))
    ],
)
def test_every_experiment_builds_at_its_resolution_and_starts_with_its_source(compose_config, option):
    extra = [*_needs(option), "model.init_from=null"] if option in WITH_TEACHER else []
    if option == "finetune":
        extra = ["model.name=deit_tiny_patch16_224", "model.pretrained=false"]
    config = compose_config(f"experiment={option}", *extra)
    size = config["data"]["img_size"]
    module = _meta_classifier(config, num_classes=1000)
    assert module(torch.empty(1, 3, size, size, device="meta")).shape == (1, 1000)
    fixed = {"study_cifar10": 24, "study_imagenet": 224, "study_imagenette": 160}
    usual = 384 if option.endswith("imagenet") else 224 if option.endswith(("deit", "finetune")) else 32
    assert size == fixed.get(option, usual)
    text = (conf_dir() / "experiment" / f"{option}.yaml").read_text()
    head = text.splitlines()[1:4]
    assert [line.split()[1] for line in head] == ["source", "hardware", "expected"]
    assert re.search("measured|quoted|no figure is published", head[2])
    assert "_target_" not in text


def test_recipe_of_cifar10_has_the_published_size(compose_config):
    module = _meta_classifier(compose_config("experiment=cifar10"))
    assert round(sum(parameter.numel() for parameter in module.parameters()) / 1e6, 1) == 6.3


def test_an_fvit_differs_from_its_vit_in_its_attention_alone(compose_config):
    for option in ("b16_imagenet", "b32_imagenet", "s16_deit"):
        fvit, vit = compose_config(f"experiment=fvit_{option}"), compose_config(f"experiment=vit_{option}")
        assert fvit["model"].pop("attention")["name"] == "additive"
        assert vit["model"].pop("attention")["name"] == "softmax"
        assert fvit == vit


@pytest.mark.parametrize("option", _options("optimizer"))
def test_every_optimizer_is_one_of_timm(compose_config, option):
    config = compose_config(f"optimizer={option}")
    module = Classifier(
        {"name": "vit_tiny_patch16_224", "embed_dim": 24, "depth": 1, "num_heads": 3},
        32,
        10,
        config["optimizer"],
        config["scheduler"],
        config["loss"],
    )
    assert build_optimizer(module.model, config["optimizer"]).param_groups


@pytest.mark.parametrize("option", _options("scheduler"))
def test_keys_of_a_scheduler_are_timms(compose_config, option):
    keys = set(compose_config(f"scheduler={option}")["scheduler"])
    assert keys <= set(inspect.signature(create_scheduler_v2).parameters)


@pytest.mark.parametrize("option", _options("loss"))
def test_every_loss_is_built(compose_config, option):
    assert build_loss(**compose_config(f"loss={option}")["loss"])


@pytest.mark.parametrize("option", [name for name in _options("distillation") if name != "none"])
def test_keys_of_distillation_are_its_losses_arguments(compose_config, option):
    losses = compose_config(f"distillation={option}", *_needs(option))["distillation"]
    losses.pop("teacher")
    assert (losses.pop("stages", None) is not None) == (option == "staged")
    own = {"task": (), "soft": ("temperature",), "hard": (), "attention": ("distance", "blocks", "inputs")}
    own["features"] = ("place", "distance", "blocks")
    functions = {"soft": soft_loss, "attention": TokenMatch, "features": TokenMatch}
    assert losses.keys() == own.keys()
    for name, loss in losses.items():
        assert loss.keys() == {*inspect.signature(LossWeight).parameters, *own[name]}
        assert set(own[name]) <= set(inspect.signature(functions[name]).parameters if own[name] else ())
    assert any(loss["weight"] for name, loss in losses.items() if name != "task")


@pytest.mark.parametrize("option", _options("augment"))
def test_augment_keys_are_timms_and_ours(compose_config, option):
    augment = compose_config(f"augment={option}")["data"]["augment"]
    assert set(augment) == {"transform", "erasing", "mixup", "num_repeats"}
    for key, theirs, ours in (
        ("transform", create_transform, TrainTransform),
        ("erasing", TimmErasing, RandomErasing),
        ("mixup", TimmMixup, Mixup),
    ):
        assert set(augment[key]) - {"off_epochs"} <= set(inspect.signature(theirs).parameters)
        assert set(augment[key]) - {"no_aug"} <= set(inspect.signature(ours).parameters)


@pytest.mark.parametrize("option", ["digits", "fake"])
def test_every_source_without_files_is_built(compose_config, option):
    data = ImageDataModule(**compose_config(f"data={option}")["data"], batch_size=8)
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (8, 32, 32, 3)
    assert batch.labels.max() < data.num_classes == 10


@pytest.mark.parametrize("option", [name for name in _options("logger") if name != "none"])
def test_every_logger_is_built(compose_config, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for config in compose_config(f"logger={option}")["logger"].values():
        assert instantiate(config) is not None


@pytest.mark.parametrize("option", _options("callbacks"))
def test_every_callback_is_built(compose_config, option):
    for config in compose_config(f"callbacks={option}")["callbacks"].values():
        assert instantiate(config) is not None


def test_several_loggers_and_callbacks_at_once(compose_config):
    config = compose_config("logger=[csv,tensorboard,wandb]", "callbacks=[default,ema]")
    assert list(config["logger"]) == ["csv", "tensorboard", "wandb"]
    assert list(config["callbacks"]) == [*compose_config()["callbacks"], "ema"]


@pytest.mark.parametrize("option", ["cpu", "ddp_cpu"])
def test_hardware_of_this_machine_makes_a_trainer(compose_config, option):
    trainer = build_trainer(compose_config(f"hardware={option}"))
    assert trainer.num_devices == {"cpu": 1, "ddp_cpu": 2}[option]


@pytest.mark.parametrize("option", ["gpu", "ddp", "fsdp", "mps"])
def test_missing_hardware_is_named_with_the_remedy(compose_config, option, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="use hardware=cpu"):
        build_trainer(compose_config(f"hardware={option}"))


@pytest.mark.parametrize("option", _options("hardware"))
def test_every_key_of_hardware_can_be_overridden(compose_config, option):
    overrides = ["trainer.precision=bf16-true", "trainer.deterministic=true", "data.num_workers=3", "compile=true"]
    overrides += ["channels_last=true", "grad_checkpointing=true", "tf32=false", *_needs(option)]
    config = compose_config("data=folder", f"hardware={option}", *overrides)
    assert (config["trainer"]["precision"], config["trainer"]["deterministic"]) == ("bf16-true", True)
    assert config["data"]["num_workers"] == 3
    assert (config["compile"], config["channels_last"], config["grad_checkpointing"]) == (True, True, True)
    assert config["tf32"] is False


@pytest.mark.parametrize("option", ["gpu", "ddp"])
def test_hardware_that_is_not_here_takes_a_step_on_the_meta_device(compose_config, option):
    """All but kernels, memory and NCCL: the batch's share, the model, its blocks, and both passes in bfloat16."""
    devices = {"gpu": 1}.get(option, 8)
    overrides = [f"trainer.devices={devices}", "micro_batch_size=64", "grad_checkpointing=true", "channels_last=true"]
    config = compose_config("experiment=fvit_b16_imagenet", f"hardware={option}", *overrides)
    plan = plan_batches(config["global_batch_size"], devices, config["micro_batch_size"])
    assert (plan.per_device, plan.accumulate) == (64, 4096 // 64 // devices)
    module = _meta_classifier(config, num_classes=1000)
    data = SimpleNamespace(batch_transform=SimpleNamespace())
    runtime_flags.set_up(config, module, data)
    assert len(blocks(module.model)) == 12
    images = torch.empty(plan.per_device, 3, 384, 384, device="meta", dtype=torch.bfloat16)
    loss = module.to(torch.bfloat16)(images.contiguous(memory_format=data.batch_transform.memory_format)).sum()
    loss.backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in module.model.parameters())
    runtime_flags.set_up(compose_config(), module, data)  # turns TF32 off again


def test_an_in_memory_dataset_has_no_workers_on_any_hardware(compose_config):
    assert compose_config("hardware=ddp")["data"]["num_workers"] == 0
    assert compose_config("hardware=ddp", "data=folder")["data"]["num_workers"] == "auto"


def test_torchrun_and_slurm_give_the_number_of_processes(compose_config, monkeypatch):
    for name, value in {"LOCAL_WORLD_SIZE": 2, "GROUP_WORLD_SIZE": 3}.items():
        monkeypatch.setenv(name, str(value))
    trainer = compose_config("hardware=torchrun", "global_batch_size=48")["trainer"]
    assert (trainer["devices"], trainer["num_nodes"]) == (2, 3)
    for name, value in {"SLURM_NTASKS_PER_NODE": 4, "SLURM_NNODES": 2}.items():
        monkeypatch.setenv(name, str(value))
    trainer = compose_config("hardware=slurm")["trainer"]
    assert (trainer["devices"], trainer["num_nodes"]) == (4, 2)


def test_more_gpus_than_there_are_are_counted(compose_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="needs 8 GPUs and torch finds 2"):
        build_trainer(compose_config("hardware=ddp", "trainer.devices=8"))
