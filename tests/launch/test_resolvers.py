import pytest
import yaml


@pytest.fixture
def composed(main):
    """The resolved configuration of a command."""

    def compose(task, *overrides):
        done = main(task, *overrides, "--cfg", "job", "--resolve")
        assert done.returncode == 0, done.stderr
        return yaml.safe_load(done.stdout)

    return compose


NAMES = [
    ([], "vit_atto, additive, seed 0"),
    (["attention=softmax", "seed=3", "logger.wandb.media=0"], "vit_atto, softmax, seed 3"),
    (["optimizer.lr=1e-3"], "vit_atto, additive, optimizer.lr=1e-3, seed 0"),
    (["title=mine", "attention=linear"], "mine, attention=linear, seed 0"),
    (["data=fake", "callbacks=[default,ema]"], "vit_atto, additive, data=fake, callbacks=[default,ema], seed 0"),
    (["attention=own", "model.attention.name=mine:Squared"], "vit_atto, mine:Squared, seed 0"),
    (["model=timm", "model.name=resnet18"], "resnet18, native, seed 0"),
]


@pytest.mark.parametrize(("overrides", "name"), NAMES)
def test_the_name_of_a_run_holds_what_its_command_line_set(composed, overrides, name):
    assert composed("train", "logger=wandb", *overrides)["logger"]["wandb"]["name"] == name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("ckpt_path=best.ckpt", "eval of best.ckpt, data.crop_pct=0.9"),
        ("pretrained=vit_tiny_patch16_224", "eval, pretrained=vit_tiny_patch16_224, data.crop_pct=0.9"),
    ],
)
def test_names_of_evaluations_hold_it_too(composed, model, name):
    assert composed("eval", "logger=wandb_eval", model, "data.crop_pct=0.9")["logger"]["wandb"]["name"] == name


@pytest.mark.parametrize(("overrides", "job_type"), [([], "train"), (["debug=limit"], "debug")])
def test_debug_runs_are_no_training_runs(composed, overrides, job_type):
    assert composed("train", "logger=wandb", *overrides)["logger"]["wandb"]["job_type"] == job_type


@pytest.mark.parametrize("loggers", ["wandb", "tensorboard", "[csv,wandb]", "[wandb,tensorboard]", "csv"])
def test_curves_are_always_kept_as_csv(composed, loggers):
    assert composed("train", f"logger={loggers}")["logger"]["csv"]["_target_"] == "fvit.loggers.csv.CSVLogger"


def test_entity_and_notes_are_plain_keys_and_may_still_be_added(composed):
    plain = composed("train", "logger=wandb", "logger.wandb.entity=me", "logger.wandb.notes=why")["logger"]["wandb"]
    added = composed("train", "logger=wandb", "+logger.wandb.entity=me", "+logger.wandb.notes=why")["logger"]["wandb"]
    assert plain["entity"] == added["entity"] == "me"
    assert plain["notes"] == added["notes"] == "why"
