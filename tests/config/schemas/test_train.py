import pytest
from hydra.errors import ConfigCompositionException

from fvit.config.errors import ConfigError


def test_defaults_are_the_quickstart(compose_config):
    assert compose_config() == compose_config("experiment=quickstart")


@pytest.mark.parametrize("experiment", ["quickstart", "cifar10", "vit_s16_deit", "fvit_s16_deit"])
def test_a_recipe_is_accepted_in_two_epochs(compose_config, experiment):
    """Its warmup follows the length of the run."""
    config = compose_config(f"experiment={experiment}", "trainer.max_epochs=2", "++data.root=DIR")
    assert config["scheduler"]["warmup_epochs"] is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+experimnt=x"], "unknown key experimnt='x', did you mean experiment"),
        (["+data.augment.mixup.alpha=1"], "unknown key data.augment.mixup.alpha=1, did you mean mixup_alpha"),
        (["+loss.smoothing=1"], "unknown key loss.smoothing=1"),
        (["+scheduler.warmup=1"], "unknown key scheduler.warmup=1, did you mean warmup"),
        (["optimizer.lr=abc"], "optimizer.lr='abc': input should be a valid number"),
        (["optimizer.lr=-1"], "optimizer.lr=-1: input should be greater than 0"),
        (["seed=-1"], "seed=-1"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0"),
        (["trainer.precision=float32"], "trainer.precision='float32'"),
        (["data.crop_pct=1.5"], "data.crop_pct=1.5"),
        (["data.augment.transform.scale=[0.9,0.1]"], "data.augment.transform.scale=[0.9, 0.1] must be [smallest, lar"),
        (["model.drop_path_rate=1.0"], "model.drop_path_rate=1"),
        (["model.embed_dim=100"], "use embed_dim=99"),
        (["model.match=latency"], "model.match='latency': input should be 'params' or 'macs'"),
        (["model.keep=qkv"], "model.keep='qkv': input should be a valid list"),
        (["+model.trim_last=true"], "model.trim_last was removed in 0.2.0: every model computes all its tokens"),
        *(
            ([f"data.img_size={size}"], f"data.img_size={size} must be a number of pixels, 224, or height and width")
            for size in ("[48]", "0", "big", "[48, 32, 3]", "[48, 0]")
        ),
        (["+model.img_size=64"], "model.img_size=64: the model follows the data; set data.img_size"),
        (["+model.in_chans=1"], "model.in_chans=1: images always have 3 channels"),
        (["+model.pretrained_cfg_overlay.file=a.pth"], "has no effect without model.pretrained=true"),
        (["model.init_from=RUN", "model.pretrained=true"], "model.init_from has no effect with model.pretrained"),
        (["scheduler.warmup_epochs=70"], "max_epochs=45; scheduler.warmup_epochs=null is an eighth of the run"),
        (["trainer.max_epochs=null"], "needs another limit; add +trainer.max_steps=N"),
        (["hardware=ddp_cpu", "trainer.devices=[0,1]"], "on cpu give a number of processes: trainer.devices=2"),
        (["hardware=ddp_cpu", "trainer.devices=[]"], "trainer.devices=[] lists GPUs; on cpu"),
        (["hardware=ddp", "trainer.devices=[]"], "trainer.devices=[] must list indices of GPUs"),
        (["hardware=ddp", "trainer.devices=[0,0]"], "trainer.devices=[0, 0] must list indices of GPUs, each once"),
        (["hardware=ddp_cpu", "trainer.strategy=ddp_spawn"], "trainer.strategy='ddp_spawn': input should be 'auto'"),
        (["+trainer.val_check_interval=0"], "trainer.val_check_interval=0: input should be greater than"),
        (["+trainer.val_check_interval=1.5"], "or input should be less than or equal to 1"),
        (["+trainer.val_check_interval=00:00:10:00"], "trainer.val_check_interval='00:00:10:00': input should be a"),
        (["trainer.devices=2"], "several devices need hardware=ddp"),
        (["loss.label_smoothing=1"], "label_smoothing=1"),
        (["augment=deit3", "loss=bce", "loss.smoothing=0.1"], "loss.smoothing has no effect on mixed labels"),
        (["hardware=ddp_cpu", "global_batch_size=63"], "use global_batch_size=62 or 64"),
        (["hardware=torchrun"], "hardware=torchrun is for `torchrun --nproc-per-node=N"),
        (["hardware=slurm"], "Use hardware=ddp to have the processes started for you"),
        (["tf32=true"], "tf32=true has no effect on cpu: set tf32=false"),
        (
            ["compile=fast"],
            "compile='fast': input should be True, False, 'default', 'reduce-overhead' or 'max-autotune'",
        ),
        (["compile=reduce-overhead"], "records CUDA graphs, which cpu does not have: set compile=default"),
        (
            ["ddp.static_graph=true"],
            "ddp.static_graph=True has no effect with trainer.strategy=auto: leave it at False",
        ),
        (["hardware=fsdp", "ddp.static_graph=true"], "ddp.static_graph=True has no effect with trainer.strategy=fsdp"),
        (["hardware=ddp_cpu", "ddp.timeout=0"], "ddp.timeout=0: input should be greater than 0"),
        (["fast_norm=true"], "fast_norm=true has no effect with trainer.precision=32-true"),
        (["data.prefetch_factor=4"], "data.prefetch_factor=4 has no effect without loader processes"),
        (["data.num_workers=few"], "data.num_workers='few'"),
        (["data.pin_memory=true"], "data.pin_memory=true has no effect on cpu"),
        (["trainer.precision=16-mixed"], "on a CPU use bf16-mixed"),
        (["hardware=fsdp", "callbacks=[default,ema]"], "callbacks.ema needs unsharded weights"),
        (["hardware=fsdp", "callbacks=[default,agc]"], "callbacks.agc needs unsharded weights"),
        (["hardware=fsdp", "callbacks=[default,unfreeze]"], "callbacks.unfreeze: sharded weights stay frozen"),
        (["hardware=fsdp", "data.size_schedule=[16,32]"], "data.size_schedule resamples unsharded weights"),
        (["data.img_size=[32,16]", "data.size_schedule=[16,32]"], "data.size_schedule has sides of squares"),
        (["data.size_schedule=[16,32]", "trainer.max_epochs=1"], "has 2 sizes, more than trainer.max_epochs=1"),
        (["hardware=fsdp", "distillation=deit_soft", "distillation.teacher.path=RUN"], "distillation needs unsharded"),
        (["distillation=deit_soft"], "distillation needs a teacher: distillation.teacher.path=…"),
        (["attention=mixed"], "model.attention.layers must be given"),
        (["attention=mixed", "model.attention.layers=3"], "layers=3 must be a list: [additive*2,softmax*2]"),
        (["attention=native", "+model.attention.layer=1"], "unknown key model.attention.layer=1; known: name"),
        (["logger=wandb", "logger.wandb.artifacts=worst"], "artifacts='worst': input should be 'off', 'best' or 'all'"),
        (["logger=wandb", "logger.wandb.media=-1"], "logger.wandb.media=-1"),
        (["logger=wandb", "logger.wandb.project=a/b"], "project=a/b: W&B does not allow any of / \\ # ? % :"),
        (["logger=wandb", "logger.wandb.project=''"], "logger.wandb.project='': string should have at least 1 char"),
    ],
)
def test_an_invalid_configuration_is_refused_with_the_remedy(compose_config, overrides, message):
    with pytest.raises(ConfigError) as caught:
        compose_config(*overrides)
    assert message in str(caught.value)


def test_several_mistakes_are_reported_at_once(compose_config):
    with pytest.raises(ConfigError) as caught:
        compose_config("seed=-1", "optimizer.lr=0")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("option", ["true", "default", "max-autotune"])
def test_options_of_compilation_and_loaders_are_taken(compose_config, option):
    config = compose_config("data=folder", f"compile={option}", "data.num_workers=auto", "data.prefetch_factor=4")
    assert config["compile"] == (option if option != "true" else True)
    assert (config["data"]["num_workers"], config["data"]["prefetch_factor"]) == ("auto", 4)
    assert compose_config("hardware=gpu", "compile=reduce-overhead", "fast_norm=true")["fast_norm"] is True
    assert compose_config("hardware=ddp_cpu", "ddp.timeout=2", "ddp.static_graph=true")["ddp"] == {
        "gradient_as_bucket_view": True,
        "static_graph": True,
        "timeout": 2,
    }


@pytest.mark.parametrize("override", ["attention=additiv", "trainer.max_epoch=3"])
def test_hydra_refuses_what_it_knows(compose_config, override):
    with pytest.raises(ConfigCompositionException):
        compose_config(override)


def test_options_that_a_constructor_checks_pass(compose_config):
    config = compose_config(
        *("+trainer.limit_train_batches=0.5", "+trainer.max_time=00:01:00:00", "+model.attention.logit=x"),
        *("model.pretrained=true", "+model.pretrained_cfg_overlay.file=a.pth", "model.keep=[qkv,proj]"),
        *("logger=wandb", "+logger.wandb.entity=me"),
    )
    assert config["trainer"]["limit_train_batches"] == 0.5
    assert config["model"]["pretrained_cfg_overlay"] == {"file": "a.pth"}
    assert config["model"]["keep"] == ["qkv", "proj"]
    assert config["logger"]["wandb"]["entity"] == "me"


def test_a_source_turns_off_augmentations_that_would_change_its_labels(compose_config):
    assert compose_config("augment=deit")["data"]["augment"]["transform"]["hflip"] == 0.0
    assert compose_config("augment=deit", "data=fake")["data"]["augment"]["transform"]["hflip"] == 0.5


@pytest.mark.parametrize(
    ("written", "blocks"),
    [("4-11", "4-11"), ("[0,1,4-11]", [0, 1, "4-11"]), ("'0,4-11'", "0,4-11"), ("3", 3), ("[2]", [2]), ("null", None)],
)
def test_blocks_are_numbers_and_ranges(compose_config, written, blocks):
    assert compose_config("attention=linear", f"model.blocks={written}")["model"]["blocks"] == blocks
