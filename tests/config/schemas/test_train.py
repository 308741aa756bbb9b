import pytest
from hydra.errors import ConfigCompositionException

from fvit.config.errors import ConfigError


def test_defaults_are_the_quickstart(compose_config):
    assert compose_config() == compose_config("experiment=quickstart")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+experimnt=x"], "unknown key experimnt='x', did you mean experiment"),
        (["+data.img_sise=3"], "no option 'img_sise', did you mean"),
        (["+trainer.max_step=3"], "trainer has no option 'max_step', did you mean max_steps"),
        (["+trainer.accumulate_grad_batches=2"], "trainer has no option 'accumulate_grad_batches'"),
        (["+model.attention.logit=full"], "no option 'logit', did you mean logits"),
        (["model.attention.logits=ful"], "input should be 'per_head' or 'full'"),
        (["+data.augment.mixup.alpha=1"], "unknown key data.augment.mixup.alpha=1"),
        (["+scheduler.warmup=1"], "unknown key scheduler.warmup=1, did you mean warmup"),
        (["optimizer.lr=abc"], "optimizer.lr='abc': input should be a valid number"),
        (["optimizer.lr=-1"], "optimizer.lr=-1: input should be greater than 0"),
        (["seed=-1"], "seed=-1"),
        (["trainer.max_epochs=0"], "trainer.max_epochs=0"),
        (["+trainer.limit_train_batches=many"], "trainer.limit_train_batches='many'"),
        (["trainer.precision=float32"], "trainer.precision='float32'"),
        (["data.crop_pct=1.5"], "data.crop_pct=1.5"),
        (["data.augment.transform.scale=[0.9,0.1]"], "is not (least, most)"),
        (["model.drop_path_rate=1.0"], "model.drop_path_rate=1"),
        (["model.embed_dim=100"], "take embed_dim=99"),
        (["data.img_size=30"], "take data.img_size=32"),
        (["model.match=latency"], "model.match='latency': input should be 'params' or 'macs'"),
        (["+model.img_size=64"], "model.img_size=64: a model is built for the size of its images; set data.img_size"),
        (["+model.in_chans=1"], "model.in_chans=1: images have 3 channels, gray ones 3 that are equal; take 3"),
        (["scheduler.warmup_epochs=70"], "take scheduler.warmup_epochs=4"),
        (["trainer.max_epochs=null"], "without a length; add +trainer.max_steps=N"),
        (["hardware=ddp_cpu", "trainer.devices=[0,1]"], "on cpu say how many processes there are: trainer.devices=2"),
        (["hardware=ddp_cpu", "trainer.devices=[]"], "trainer.devices=[] names GPUs; on cpu"),
        (["hardware=ddp", "trainer.devices=[]"], "trainer.devices=[] must name GPUs by their numbers"),
        (["hardware=ddp", "trainer.devices=[0,0]"], "trainer.devices=[0, 0] must name GPUs by their numbers, each"),
        (["hardware=ddp_cpu", "trainer.strategy=ddp_spawn"], "trainer.strategy='ddp_spawn': input should be 'auto'"),
        (["+trainer.val_check_interval=0"], "trainer.val_check_interval=0: input should be greater than"),
        (["+trainer.val_check_interval=1.5"], "or input should be less than or equal to 1"),
        (
            ["+trainer.val_check_interval=00:00:10:00"],
            "trainer.val_check_interval='00:00:10:00': input should be a valid",
        ),
        (["trainer.devices=2"], "several devices need hardware=ddp"),
        (["loss.label_smoothing=1"], "label_smoothing=1"),
        (["attention=native", "model.blocks=[0]"], "model.blocks has no effect with attention=native"),
        (["attention=native", "model.blocks=4-11"], "model.blocks has no effect with attention=native"),
        (["attention=native", "model.keep=[qkv]"], "model.keep has no effect with attention=native"),
        (["model.keep=[qkv]", "model.blocks=[]"], "model.keep has no effect with model.blocks=[]"),
        (["model.keep=[qkv,qvk]"], "model.keep has no 'qvk', did you mean qkv"),
        (["model.keep=qkv"], "model.keep='qkv' is no list; write model.keep=[qkv]"),
        (["model.keep=null"], "model.keep=None is no list; write model.keep=[]"),
        (["model.blocks=4.11"], "model.blocks=4.11: '4.11' is no block; write 4, 4-11, [0,1,4-11] or null"),
        (["model.blocks=[0,11-4]"], "11-4 runs backwards; write 4-11"),
        (["+model.pretrained_cfg_overlay.file=a.pth"], "has no effect without model.pretrained=true"),
        (["augment=deit3", "loss=bce", "loss.smoothing=0.1"], "loss.smoothing has no effect on mixed labels"),
        (["hardware=ddp_cpu", "global_batch_size=63"], "take global_batch_size=62 or 64"),
        (["hardware=torchrun"], "for those of `torchrun --nproc-per-node=N"),
        (["hardware=slurm"], "Take hardware=ddp to have them started"),
        (["tf32=true"], "tf32=true has no effect on cpu: set tf32=false"),
        (["data.pin_memory=true"], "data.pin_memory=true has no effect on cpu"),
        (["trainer.precision=16-mixed"], "on a CPU take bf16-mixed"),
        (["hardware=fsdp", "callbacks=[default,ema]"], "callbacks.ema averages whole weights"),
        (["hardware=fsdp", "distillation=deit_soft", "distillation.teacher.path=RUN"], "distillation needs whole weig"),
        (["attention=mixed"], "model.attention.layers must be given"),
        (["data=fake", "data.num_images=few"], "num_images='few'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(compose_config, overrides, message):
    with pytest.raises(ConfigError) as caught:
        compose_config(*overrides)
    assert message in str(caught.value)


def test_several_faults_are_told_at_once(compose_config):
    with pytest.raises(ConfigError) as caught:
        compose_config("seed=-1", "optimizer.lr=0")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("override", ["attention=additiv", "trainer.max_epoch=3"])
def test_hydra_refuses_what_it_knows(compose_config, override):
    with pytest.raises(ConfigCompositionException):
        compose_config(override)


def test_further_arguments_of_the_trainer_pass(compose_config):
    config = compose_config("+trainer.limit_train_batches=0.5", "+trainer.max_time=00:01:00:00")
    assert config["trainer"]["limit_train_batches"] == 0.5


def test_a_source_switches_off_what_would_change_its_labels(compose_config):
    assert compose_config("augment=deit")["data"]["augment"]["transform"]["hflip"] == 0.0
    assert compose_config("augment=deit", "data=fake")["data"]["augment"]["transform"]["hflip"] == 0.5


@pytest.mark.parametrize(
    ("written", "blocks"),
    [("4-11", "4-11"), ("[0,1,4-11]", [0, 1, "4-11"]), ("'0,4-11'", "0,4-11"), ("3", 3), ("[2]", [2]), ("null", None)],
)
def test_blocks_are_numbers_and_ranges(compose_config, written, blocks):
    assert compose_config("attention=linear", f"model.blocks={written}")["model"]["blocks"] == blocks


def test_weights_of_ones_own_and_what_is_kept_pass(compose_config):
    config = compose_config(
        "model.pretrained=true", "+model.pretrained_cfg_overlay.file=a.pth", "model.keep=[qkv,proj]"
    )
    assert config["model"]["pretrained_cfg_overlay"] == {"file": "a.pth"}
    assert config["model"]["keep"] == ["qkv", "proj"]
