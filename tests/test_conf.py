"""Every option of every config group composes, passes the check, and builds what it names."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from hydra.utils import instantiate
from timm.data import Mixup as TimmMixup
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing as TimmErasing
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

from fvit import attention
from fvit.config.batch_plan import plan_batches
from fvit.config.paths import conf_dir
from fvit.data import ImageDataModule
from fvit.data.transforms.batch import Mixup, RandomErasing
from fvit.data.transforms.image import TrainTransform
from fvit.training import Classifier, build_loss, runtime_flags
from fvit.training.distillation import TokenMatch, Weight, soft_loss
from fvit.training.sharding import blocks
from fvit.training.trainer import build_trainer

from .attention.cases import CASES

TAUGHT = ("deit_soft", "deit_hard", "attention", "features", "blocks", "digits_distilled")
SHAPES = {
    "mixed": "model.attention.layers=[additive*2,softmax*2]",
    "own": "model.attention.name=fvit.attention.zoo.linear:Linear",
    "timm": "model.name=convnextv2_atto",
    "vip_small7": "data.img_size=28",
    "optuna": "~callbacks.pruning",  # its trial is Hydra's job, which there is none of here
    **dict.fromkeys(("torchrun", "slurm"), "trainer={devices:1,num_nodes:1}"),
    **dict.fromkeys(TAUGHT, "distillation.teacher.path=RUN"),
}


def _options(group):
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def _extra(option):
    return [SHAPES[option]] if option in SHAPES else []


def _every_option():
    groups = sorted(path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra")
    return [(group, option) for group in groups for option in _options(group)]


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


@pytest.mark.parametrize(("group", "option"), _every_option())
def test_every_option_composes_and_passes_the_check(compose_config, group, option):
    extra = _extra(option)
    assert compose_config(f"{group}={option}", *extra)


@pytest.mark.parametrize("name", attention.names())
def test_every_mechanism_has_a_config_with_the_constructors_defaults(name):
    written = yaml.safe_load((conf_dir() / "attention" / f"{name}.yaml").read_text())
    assert written.pop("name") == name
    parameters = inspect.signature(attention.get(name)).parameters
    assert {option: parameters[option].default for option in written} == written


@pytest.mark.parametrize("option", sorted(set(_options("attention")) - {*attention.names(), "native", "mixed", "own"}))
def test_every_set_of_options_is_held_to_a_reference(option):
    chosen = yaml.safe_load((conf_dir() / "attention" / f"{option}.yaml").read_text())
    key = chosen.pop("name")
    defaults = {name: p.default for name, p in inspect.signature(attention.get(key)).parameters.items()}
    assert {**defaults, **chosen} != defaults
    assert {**defaults, **chosen} in [{**defaults, **case.options} for case in CASES if case.key == key]


@pytest.mark.parametrize("option", _options("attention"))
@pytest.mark.parametrize("model", ["vit_atto", "vit_tiny"])
def test_every_attention_goes_into_a_model(compose_config, option, model):
    layers = {"vit_atto": "2", "vit_tiny": "6"}[model]
    extra = {**SHAPES, "mixed": f"model.attention.layers=[additive*{layers},softmax*{layers}]"}.get(option)
    overrides = [extra] if extra else []
    # A class token to which a mechanism brings nothing is refused; the mean of the patches always sees the image.
    config = compose_config(f"attention={option}", f"model={model}", "model.global_pool=avg", "data=fake", *overrides)
    module = _meta_classifier(config)
    assert module(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("option", _options("model"))
def test_every_model_builds_and_maps_images_to_logits(compose_config, option):
    config = compose_config(f"model={option}", "data=fake", *_extra(option))
    size = config["data"]["img_size"]
    module = _meta_classifier(config)
    assert module(torch.empty(2, 3, size, size, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("option", _options("experiment"))
def test_every_experiment_builds_at_its_resolution(compose_config, option):
    extra = [SHAPES[option], "model.init_from=null"] if option in TAUGHT else []
    config = compose_config(f"experiment={option}", *extra)
    size = config["data"]["img_size"]
    module = _meta_classifier(config, num_classes=1000)
    assert module(torch.empty(1, 3, size, size, device="meta")).shape == (1, 1000)
    expected = "384" if option.endswith("imagenet") else "224" if option.endswith("deit") else "32"
    assert str(size) == expected


@pytest.mark.parametrize("option", _options("experiment"))
def test_every_experiment_starts_with_its_source(option):
    head = (conf_dir() / "experiment" / f"{option}.yaml").read_text().splitlines()[1:4]
    assert [line.split()[1] for line in head] == ["source", "hardware", "expected"]
    assert re.search("measured|quoted|no figure is published", head[2])


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
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in config["optimizer"].items()}
    assert create_optimizer_v2(module.model, **options).param_groups


@pytest.mark.parametrize(
    ("group", "constructors"),
    [("scheduler", [create_scheduler_v2]), ("loss", [build_loss])],
)
def test_keys_are_the_constructors(compose_config, group, constructors):
    for option in _options(group):
        keys = set(compose_config(f"{group}={option}")[group])
        if group == "loss":
            keys -= {"name"}
            build_loss(**compose_config(f"{group}={option}")[group])
        else:
            assert keys <= set(inspect.signature(constructors[0]).parameters)


@pytest.mark.parametrize("option", [name for name in _options("distillation") if name != "none"])
def test_losses_of_distillation_take_their_functions_arguments(compose_config, option):
    losses = compose_config(f"distillation={option}", SHAPES[option])["distillation"]
    losses.pop("teacher")
    own = {"task": (), "soft": ("temperature",), "hard": (), "attention": ("distance", "blocks")}
    own["features"] = ("place", "distance", "blocks")
    functions = {"soft": soft_loss, "attention": TokenMatch, "features": TokenMatch}
    assert losses.keys() == own.keys()
    for name, loss in losses.items():
        assert loss.keys() == {*inspect.signature(Weight).parameters, *own[name]}
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
        assert set(augment[key]) <= set(inspect.signature(theirs).parameters)
        assert set(augment[key]) - {"no_aug"} <= set(inspect.signature(ours).parameters)


@pytest.mark.parametrize("option", ["digits", "fake"])
def test_every_source_builds(compose_config, option):
    data = ImageDataModule(**compose_config(f"data={option}")["data"], batch_size=8)
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (8, 32, 32, 3)
    assert batch.labels.max() < data.num_classes == 10


@pytest.mark.parametrize("option", [name for name in _options("logger") if name != "none"])
def test_every_logger_is_built_with_plain_metrics(compose_config, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for config in compose_config(f"logger={option}")["logger"].values():
        assert instantiate(config) is not None


@pytest.mark.parametrize("option", ["cpu", "ddp_cpu"])
def test_hardware_of_this_machine_makes_a_trainer(compose_config, option):
    trainer = build_trainer(compose_config(f"hardware={option}"))
    assert trainer.num_devices == {"cpu": 1, "ddp_cpu": 2}[option]


@pytest.mark.parametrize("option", ["gpu", "ddp", "fsdp", "mps"])
def test_hardware_that_is_missing_is_named_with_the_remedy(compose_config, option, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="use hardware=cpu"):
        build_trainer(compose_config(f"hardware={option}"))


@pytest.mark.parametrize("option", _options("hardware"))
def test_hardware_says_how_it_computes_and_all_of_it_can_be_overridden(compose_config, option):
    written = yaml.safe_load((conf_dir() / "hardware" / f"{option}.yaml").read_text())
    assert written["trainer"].keys() == {
        *("accelerator", "devices", "num_nodes", "strategy", "precision", "deterministic"),
    }
    assert written["data"].keys() == {"num_workers", "pin_memory"}
    assert written.keys() == {"trainer", "data", "compile", "channels_last", "grad_checkpointing", "tf32"}
    overrides = ["trainer.precision=bf16-true", "trainer.deterministic=true", "data.num_workers=3", "compile=true"]
    overrides += ["channels_last=true", "grad_checkpointing=true", "tf32=false", *_extra(option)]
    config = compose_config("data=folder", f"hardware={option}", *overrides)
    assert (config["trainer"]["precision"], config["trainer"]["deterministic"]) == ("bf16-true", True)
    assert config["data"]["num_workers"] == 3
    assert (config["compile"], config["channels_last"], config["grad_checkpointing"]) == (True, True, True)
    assert config["tf32"] is False


@pytest.mark.parametrize("option", ["gpu", "ddp", "fsdp"])
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
    runtime_flags.set_up(compose_config(), module, data)  # TF32 is off again


def test_a_source_in_memory_has_no_workers_on_any_hardware(compose_config):
    assert compose_config("hardware=ddp")["data"]["num_workers"] == 0
    assert compose_config("hardware=ddp", "data=folder")["data"]["num_workers"] == 8


def test_what_starts_processes_says_how_many(compose_config, monkeypatch):
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


@pytest.mark.parametrize("option", _options("callbacks"))
def test_every_callback_is_built(compose_config, option):
    for config in compose_config(f"callbacks={option}")["callbacks"].values():
        assert instantiate(config) is not None


def test_several_loggers_and_callbacks_at_once(compose_config):
    config = compose_config("logger=[csv,tensorboard,wandb]", "callbacks=[default,ema]")
    assert list(config["logger"]) == ["csv", "tensorboard", "wandb"]
    assert list(config["callbacks"])[-3:] == ["best", "last", "ema"]


def test_no_experiment_names_a_class():
    for path in Path(conf_dir() / "experiment").glob("*.yaml"):
        assert "_target_" not in path.read_text()
