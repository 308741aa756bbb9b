from types import SimpleNamespace

import yaml

from tests.loggers.test_wandb import close, logger
from tests.loggers.wandb_runs import runs


def test_damaged_checkpoint_is_a_warning(tmp_path, caplog):
    (tmp_path / "best.ckpt").write_text("damaged")
    one = logger(tmp_path, artifacts="best")
    one.log_metrics({"a": 1.0}, 0)
    close(one, SimpleNamespace(monitor="val/acc1", best_model_path=str(tmp_path / "best.ckpt")))
    assert "best.ckpt is damaged" in caplog.text
    [run] = runs(tmp_path / "logs" / "wandb")
    assert run.summed["state"] == "finished"


def test_choices_overrides_and_variant_are_keys_of_the_config(tmp_path):
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    choices = {"model": "vit_atto", "attention": "own", "data": "digits", "experiment": None, "hydra/launcher": "basic"}
    recorded = {"hydra": {"runtime": {"choices": choices}}}
    (tmp_path / "run" / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(recorded))
    overrides = [
        "attention=own",
        "model.attention.name=mine:Squared",
        "optimizer.lr=1e-3",
        "~callbacks.ema",
        "seed=1",
    ]
    (tmp_path / "run" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    one = logger(tmp_path, entity="me", notes="a try")
    config = {"output_dir": "run", "title": "vit_atto, mine:Squared", "model": {"attention": {"name": "mine:Squared"}}}
    one.log_hyperparams(config)
    one.log_hyperparams({"lr": 0.1})  # as Lightning does, with what the module saved
    close(one)
    [run] = runs(tmp_path / "logs" / "wandb")
    logged = run.summed["config"]
    named = {"model": "vit_atto", "attention": "mine:Squared", "data": "digits", "experiment": None}
    assert (logged["choices"], logged["lr"]) == (named, 0.1)
    assert logged["overrides"]["optimizer.lr"] == "1e-3"
    assert logged["variant"] == "vit_atto, mine:Squared, optimizer.lr=1e-3, ~callbacks.ema"
    assert (run.run["entity"], run.run["notes"]) == ("me", "a try")


def test_long_name_is_cut_but_stays_distinct(tmp_path):
    names = [logger(tmp_path, name=f"{'x' * 150}, seed {seed}")._wandb_init["name"] for seed in range(2)]
    assert [len(name) for name in names] == [128, 128]
    assert names[0] != names[1]
