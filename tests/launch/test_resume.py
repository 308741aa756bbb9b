"""The run directory, the overrides and the checkpoint that `ckpt_path` stands for."""

import multiprocessing
import shlex
import time

import pytest
import torch
from omegaconf import OmegaConf

from fvit.config.errors import RunError
from fvit.config.overrides import argument, parse, quoted, value_of
from fvit.launch import resume
from fvit.launch.lock import held
from fvit.launch.record import write_metrics
from tests.training.fitting import FAKE, fit


def make_run(folder, overrides, status=None, hydra=None):
    """A run directory; `hydra` are other overrides in .hydra/, of an attempt that was refused."""
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(hydra or overrides), folder / ".hydra" / "overrides.yaml")
    if status is not None:
        OmegaConf.save(OmegaConf.create(overrides), folder / "overrides.yaml")
        write_metrics(folder, status, {})
    return folder


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "logs" / "train" / "runs"


def test_last_is_the_newest_unfinished_run_of_the_same_command(runs):
    argv = ["seed=1", "model.depth=2", "ckpt_path=last"]
    assert resume.expand_arguments(argv) == argv
    make_run(runs / "b", ["seed=1", "model.depth=2"], "running")
    make_run(runs / "a", ["model.depth=2", "seed=1", "ckpt_path=last"], "failed")
    make_run(runs / "c", ["seed=1", "model.depth=2"], "finished")
    make_run(runs / "d", ["seed=2", "model.depth=2"], "running")
    assert resume.expand_arguments(argv) == [*argv, "hydra.run.dir='logs/train/runs/a'"]
    assert resume.expand_arguments([*argv, "quiet=true"])[-1] == "hydra.run.dir='logs/train/runs/a'"
    make_run(runs / "e", argv)  # killed before it started
    assert resume.expand_arguments(argv) == [*argv, "hydra.run.dir='logs/train/runs/e'"]


@pytest.mark.parametrize(
    "argv",
    [
        ["seed=1"],
        ["seed=1", "ckpt_path=null"],
        ["seed=1", "ckpt_path=last", "hydra.run.dir=here"],
        ["-m", "seed=1", "ckpt_path=last"],
        ["seed=1", "ckpt_path=last", "--multirun"],
        ["sweep=seeds", "seed=1", "ckpt_path=logs/train/runs/a"],  # a preset sweeps without -m
        ["seed=1", "ckpt_path=logs/train/runs/a/checkpoints/last.ckpt"],
        ["seed=1", "ckpt_path=absent"],
        ["seed=1", "ckpt_path=logs/train/runs/a", "hydra.run.dir=elsewhere"],
    ],
)
def test_other_arguments_are_unchanged(runs, argv):
    make_run(runs / "a", ["seed=1"], "running")
    assert resume.expand_arguments(argv) == argv


@pytest.mark.parametrize("path", ["logs/train/runs/its", "'logs/train/runs/its'", '"logs/train/runs/its"'])
def test_a_directory_resumes_with_its_own_overrides_and_the_new_ones(runs, path):
    recorded = ["model=vit_tiny", "++trainer.limit_train_batches=3", "seed=1", "ckpt_path=null", "~logger"]
    make_run(runs / "its", recorded, "finished", hydra=["seed=9"])
    assert resume.expand_arguments(["trainer.limit_train_batches=5", "optimizer.lr=1", f"ckpt_path={path}"]) == [
        "model=vit_tiny",
        "seed=1",
        "~logger",
        "trainer.limit_train_batches=5",
        "optimizer.lr=1",
        "ckpt_path=last",
        "hydra.run.dir='logs/train/runs/its'",
    ]


def test_options_of_hydra_are_no_overrides(runs):
    options = ["--config-dir", "mine"]
    recorded = ["experiment=own", "seed=1"]
    folder = make_run(runs / "a", recorded, "running")
    last = resume.expand_arguments([*options, *recorded, "ckpt_path=last"])
    assert last == [*options, *recorded, "ckpt_path=last", "hydra.run.dir='logs/train/runs/a'"]
    # Hydra takes no overrides on both sides of an option.
    for argv in ([*options, "seed=2", f"ckpt_path={folder}"], ["seed=2", f"ckpt_path={folder}", *options]):
        expanded = resume.expand_arguments(argv)
        assert expanded == [*options, "experiment=own", "seed=2", "ckpt_path=last", f"hydra.run.dir='{folder}'"]


def test_a_directory_may_have_any_name(runs):
    for number, name in enumerate(("a\\b, c's\\", 'say "x" = ${y}', "$HOME", "007", "it's", "名 é", "null", "last")):
        typed = [f"seed={number}", "+x='it\\'s'"]
        folder = make_run(runs / name, typed, "running")
        [run_dir] = resume.expand_arguments([*typed, "ckpt_path=last"])[3:]
        [printed] = shlex.split(argument("ckpt_path", folder))
        resumed = resume.expand_arguments([printed])
        assert resumed == [*typed, "ckpt_path=last", f"hydra.run.dir={quoted(str(folder))}"]
        assert value_of(parse([run_dir])[0][1]) == f"logs/train/runs/{name}"


def test_a_number_may_be_a_directory(runs):
    make_run(runs / "007", ["seed=1"], "running")
    runs.joinpath("1e3").symlink_to("007")
    for name in ("007", "1e3"):
        assert "seed=1" in resume.expand_arguments([f"ckpt_path={runs}/{name}"])
        (runs.parents[2] / name).symlink_to(runs / name)
        assert "seed=1" in resume.expand_arguments([f"ckpt_path={name}"])


def test_a_run_without_overrides_resumes_in_its_directory(runs):
    folder = make_run(runs / "a", [], "interrupted")
    assert resume.expand_arguments([f"ckpt_path={folder}"]) == ["ckpt_path=last", f"hydra.run.dir='{folder}'"]


def test_a_job_of_a_preset_does_not_sweep_again(runs):
    folder = make_run(runs / "0", ["sweep=seeds", "seed=1"], "interrupted")
    assert resume.expand_arguments([f"ckpt_path={folder}"])[0] == "seed=1"


def test_last_shows_the_unfinished_runs_of_other_overrides(runs, capsys):
    for name, overrides, status in (
        ("far", ["model=vit_tiny", "seed=7", "loss=bce"], "interrupted"),
        ("near", ["seed=1", "quiet=true"], "failed"),
        ("its 2", ["seed=2", "~logger"], "running"),
        ("finished", ["seed=1"], "finished"),
        ("empty", ["seed=1"], "failed"),
    ):
        make_run(runs / name, overrides, status)
        if name != "empty":
            save_checkpoint(runs / name / "checkpoints" / "last.ckpt")
    argv = ["seed=1", "+x='a b'", "ckpt_path=last"]
    assert resume.expand_arguments(argv) == argv
    printed = capsys.readouterr().out.splitlines()
    assert "no unfinished run has these overrides" in printed[0]
    added = shlex.quote("+x='a b'")
    assert printed[2:] == [
        f"  fvit-train ckpt_path=logs/train/runs/near {added}",
        f"""  fvit-train "ckpt_path='logs/train/runs/its 2'" seed=1 {added}   # it has seed=2, ~logger""",
        f"  fvit-train ckpt_path=logs/train/runs/far seed=1 {added}   # it has model=vit_tiny, seed=7, loss=bce",
    ]
    assert resume.expand_arguments([*argv, "--cfg", "job"])[-1] == "job"
    assert capsys.readouterr().out == ""


@pytest.fixture
def lock_elsewhere():
    """`lock_elsewhere(folder)` locks it in another process, and returns that."""
    context, processes = multiprocessing.get_context("fork"), []

    def lock(folder):
        reader, writer = context.Pipe(duplex=False)
        processes.append(context.Process(target=_hold, args=(folder, writer)))
        processes[-1].start()
        assert reader.recv()
        return processes[-1]

    yield lock
    for process in processes:
        process.kill()
        process.join()


def _hold(folder, writer):
    with held(folder):
        writer.send(True)
        time.sleep(60)


@pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning")
def test_a_run_in_progress_is_not_resumed(runs, lock_elsewhere, compose_config):
    argv = ["seed=1", "ckpt_path=last"]
    make_run(runs / "old", argv, "failed")
    process = lock_elsewhere(make_run(runs / "new", argv, "running"))
    assert resume.expand_arguments(argv)[-1] == "hydra.run.dir='logs/train/runs/old'"
    config = compose_config("ckpt_path=last", f"output_dir={runs / 'new'}")
    with pytest.raises(RunError, match="new is in use by another process"):
        resume.find_checkpoint(config)
    process.kill()
    process.join()
    assert resume.expand_arguments(argv)[-1] == "hydra.run.dir='logs/train/runs/new'"
    assert resume.find_checkpoint(config)["ckpt_path"] is None


def test_without_a_checkpoint_last_starts_from_scratch(compose_config, tmp_path, capsys):
    assert resume.find_checkpoint(compose_config("ckpt_path=last"))["ckpt_path"] is None
    assert capsys.readouterr().out == (
        f"ckpt_path=last: there is no checkpoint in {tmp_path / 'run'}, training starts from scratch\n"
    )


def save_checkpoint(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": torch.arange(1000)}, path)
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def change(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def clear(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, change, clear])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before_it(compose_config, tmp_path, capsys, damage):
    folder = tmp_path / "run" / "checkpoints"
    paths = [save_checkpoint(folder / name) for name in ("last.ckpt", "previous.ckpt", "best.ckpt")]
    config = compose_config("ckpt_path=last")
    for number, path in enumerate(paths):
        assert resume.find_checkpoint(config)["ckpt_path"] == str(path)
        printed = capsys.readouterr().out
        assert printed.count("is damaged or truncated") == number
        assert all(str(before) in printed for before in paths[:number])
        assert f"resuming from {path}\n" in printed
        damage(path)
    with pytest.raises(ValueError, match=r"all checkpoints in .*run are damaged: last.ckpt, previous.ckpt, best.ckpt"):
        resume.find_checkpoint(config)


def test_a_new_run_does_not_start_among_the_checkpoints_of_another(compose_config, tmp_path):
    """Killed before its own first checkpoint, it would resume from the other's, and have the other's results."""
    save_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    other = save_checkpoint(tmp_path / "other" / "checkpoints" / "last.ckpt")
    for overrides in ([], [f"ckpt_path={other}"], [f"ckpt_path={tmp_path / 'other'}"]):
        with pytest.raises(ValueError, match=r"run holds checkpoints of .* \(best.ckpt\): .* ckpt_path=last"):
            resume.find_checkpoint(compose_config(*overrides))
    assert resume.find_checkpoint(compose_config(f"ckpt_path={tmp_path / 'run'}"))["ckpt_path"] is not None
    elsewhere = compose_config(f"ckpt_path={tmp_path / 'other'}", f"output_dir={tmp_path / 'new'}")
    assert resume.find_checkpoint(elsewhere)["ckpt_path"] == str(other)


def test_a_run_with_initial_weights_resumes_and_a_new_one_has_one_start(compose_config, tmp_path):
    other = save_checkpoint(tmp_path / "other" / "checkpoints" / "last.ckpt")
    start = f"model.init_from={other}"
    with pytest.raises(ValueError, match=r"model\.init_from has no effect with ckpt_path=.*: leave one of them out"):
        resume.find_checkpoint(compose_config(start, f"ckpt_path={other}"))
    assert resume.find_checkpoint(compose_config(start, "ckpt_path=last"))["ckpt_path"] is None
    own = save_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert resume.find_checkpoint(compose_config(start, "ckpt_path=last"))["ckpt_path"] == str(own)


def test_changed_settings_are_printed_and_another_model_is_refused(compose_config, tmp_path, capsys):
    fit(compose_config(*FAKE))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.is_file()}
    with pytest.raises(ValueError, match="cannot resume with another model") as refused:
        fit(compose_config(*FAKE, "ckpt_path=last", "model.depth=1", "optimizer.weight_decay=0.3", "seed=1"))
    assert "model.depth=1 (was 2), optimizer.weight_decay=0.3 (was 0.05). " in str(refused.value)
    assert f"model.init_from={tmp_path / 'run'}" in str(refused.value)
    assert {path: path.read_bytes() for path in before} == before
    capsys.readouterr()
    probe = fit(compose_config(*FAKE, "ckpt_path=last", "trainer.max_epochs=2", "optimizer.lr=0.1"))
    assert "settings that changed: trainer.max_epochs=2 (was 1), optimizer.lr=0.1 (was 0.002)\n" in (
        capsys.readouterr().out
    )
    assert probe.rates[0][0] > 0.01


def test_a_model_from_a_folder_that_is_gone_is_the_recorded_one(compose_config, tmp_path):
    asked = compose_config("model=timm", "model.name=local-dir:gone", "ckpt_path=last")
    found = {"name": "vit_tiny_patch16_224", "depth": 2, "pretrained": False, "init_from": "gone/model.safetensors"}
    attention = {"attention": {"name": "additive", "logits": "full"}}
    model = {**asked["model"], **found, **attention, "origin": "local-dir:gone"}
    save_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    OmegaConf.save(OmegaConf.create({**asked, "model": model}), tmp_path / "run" / "config.yaml")
    assert resume.find_checkpoint(asked)["model"] == model
    for other in ({"depth": 3}, {"attention": {"name": "linear"}}, {"name": "local-dir:other"}):
        with pytest.raises(ValueError, match="cannot resume with another model or optimizer"):
            resume.find_checkpoint({**asked, "model": {**asked["model"], **other}})
