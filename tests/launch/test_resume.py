"""Which folder, which overrides and which checkpoint `ckpt_path` means."""

import multiprocessing
import time

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fvit.config.errors import RunError
from fvit.launch import resume
from fvit.launch.lock import held
from fvit.launch.run_dir import write_metrics
from tests.training.fitting import FAKE, fit


def _made(folder, overrides, status=None, hydra=None):
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
    _made(runs / "b", ["seed=1", "model.depth=2"], "running")
    _made(runs / "a", ["model.depth=2", "seed=1", "ckpt_path=last"], "failed")
    _made(runs / "c", ["seed=1", "model.depth=2"], "finished")
    _made(runs / "d", ["seed=2", "model.depth=2"], "running")
    assert resume.expand_arguments(argv) == [*argv, "hydra.run.dir='logs/train/runs/a'"]
    assert resume.expand_arguments([*argv, "quiet=true"])[-1] == "hydra.run.dir='logs/train/runs/a'"
    # Killed before it had begun.
    _made(runs / "e", argv)
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
def test_anything_else_is_left_as_it_is(runs, argv):
    _made(runs / "a", ["seed=1"], "running")
    assert resume.expand_arguments(argv) == argv


def test_a_folder_goes_on_with_what_it_was_begun_with_and_what_is_given_now(runs):
    recorded = ["model=vit_tiny", "++trainer.limit_train_batches=3", "seed=1", "ckpt_path=null", "~logger"]
    _made(runs / "it's", recorded, "finished", hydra=["seed=9"])  # Hydra's is of an attempt that was refused
    assert resume.expand_arguments(
        ["trainer.limit_train_batches=5", "optimizer.lr=1", "ckpt_path=logs/train/runs/it's"]
    ) == [
        "model=vit_tiny",
        "seed=1",
        "~logger",
        "trainer.limit_train_batches=5",
        "optimizer.lr=1",
        "ckpt_path=last",
        "hydra.run.dir='logs/train/runs/it\\'s'",
    ]


def test_flags_and_their_words_are_no_overrides(runs):
    flags = ["--config-dir", "mine"]
    recorded = ["experiment=own", "seed=1"]
    folder = _made(runs / "a", recorded, "running")
    last = resume.expand_arguments([*flags, *recorded, "ckpt_path=last"])
    assert last == [*flags, *recorded, "ckpt_path=last", "hydra.run.dir='logs/train/runs/a'"]
    # Hydra takes no overrides on both sides of a flag.
    for argv in ([*flags, "seed=2", f"ckpt_path={folder}"], ["seed=2", f"ckpt_path={folder}", *flags]):
        resumed = resume.expand_arguments(argv)
        assert resumed == [*flags, "experiment=own", "seed=2", "ckpt_path=last", f"hydra.run.dir='{folder}'"]


def test_a_folder_of_any_name_is_found_again(runs):
    folder = _made(runs / "a\\b, c's\\", ["seed=1"], "running")
    run_dir = resume.expand_arguments(["seed=1", "ckpt_path=last"])[-1]
    assert OverridesParser.create().parse_override(run_dir).value() == "logs/train/runs/" + folder.name


@pytest.fixture
def at_work():
    """Has another process hold folders."""
    context, processes = multiprocessing.get_context("fork"), []

    def hold(folder):
        reader, writer = context.Pipe(duplex=False)
        processes.append(context.Process(target=_hold, args=(folder, writer)))
        processes[-1].start()
        assert reader.recv()
        return processes[-1]

    yield hold
    for process in processes:
        process.kill()
        process.join()


def _hold(folder, writer):
    with held(folder):
        writer.send(True)
        time.sleep(60)


@pytest.mark.filterwarnings("ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning")
def test_a_run_at_work_is_left_alone(runs, at_work, compose_config):
    argv = ["seed=1", "ckpt_path=last"]
    _made(runs / "old", argv, "failed")
    process = at_work(_made(runs / "new", argv, "running"))
    assert resume.expand_arguments(argv)[-1] == "hydra.run.dir='logs/train/runs/old'"
    config = compose_config("ckpt_path=last", f"output_dir={runs / 'new'}")
    with pytest.raises(RunError, match="new: another process is at work in this run"):
        resume.find_checkpoint(config)
    process.kill()
    process.join()
    assert resume.expand_arguments(argv)[-1] == "hydra.run.dir='logs/train/runs/new'"
    assert resume.find_checkpoint(config)["ckpt_path"] is None


def test_last_begins_afresh_where_there_is_nothing(compose_config, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "wandb_id").write_text("old")
    settled = resume.find_checkpoint(compose_config("ckpt_path=last"))
    assert settled["ckpt_path"] is None
    assert not resume.goes_on(settled)
    assert capsys.readouterr().out.count("holds no checkpoint, so training begins afresh\n") == 1
    assert not (tmp_path / "run" / "wandb_id").exists()


def _checkpoint(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"weight": torch.arange(1000)}, path)
    return path


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def _change(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_truncate, _change, _empty])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(compose_config, tmp_path, capsys, damage):
    folder = tmp_path / "run" / "checkpoints"
    paths = [_checkpoint(folder / name) for name in ("last.ckpt", "previous.ckpt", "best.ckpt")]
    config = compose_config("ckpt_path=last")
    for number, path in enumerate(paths):
        settled = resume.find_checkpoint(config)
        assert settled["ckpt_path"] == str(path)
        assert resume.goes_on(settled)
        told = capsys.readouterr().out
        assert told.count("is damaged or truncated") == number
        assert all(str(before) in told for before in paths[:number])
        assert f"going on from {path}\n" in told
        damage(path)
    with pytest.raises(ValueError, match=r"all checkpoints of .*run are damaged: last.ckpt, previous.ckpt, best.ckpt"):
        resume.find_checkpoint(config)


def test_a_checkpoint_elsewhere_begins_a_folder_of_its_own(compose_config, tmp_path):
    path = _checkpoint(tmp_path / "other" / "checkpoints" / "last.ckpt")
    for given in (path, tmp_path / "other"):
        settled = resume.find_checkpoint(compose_config(f"ckpt_path={given}"))
        assert settled["ckpt_path"] == str(path)
        assert not resume.goes_on(settled)


def test_a_run_does_not_begin_among_the_checkpoints_of_another(compose_config, tmp_path):
    """Killed before its own first one, it would go on from the other's, and have the other's results."""
    _checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    other = _checkpoint(tmp_path / "other" / "checkpoints" / "last.ckpt")
    for overrides in ([], [f"ckpt_path={other}"]):
        with pytest.raises(ValueError, match=r"run holds checkpoints .* \(best.ckpt\): .* ckpt_path=last"):
            resume.find_checkpoint(compose_config(*overrides))
    assert resume.find_checkpoint(compose_config(f"ckpt_path={tmp_path / 'run'}"))["ckpt_path"] is not None


def test_machines_that_each_compose_must_be_given_a_file(compose_config, tmp_path, monkeypatch):
    path = _checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    config = compose_config("hardware=ddp_cpu", "trainer.num_nodes=2", "ckpt_path=last")
    with pytest.raises(ValueError, match=r"several machines .* Name a file that all of them see"):
        resume.find_checkpoint(config)
    with monkeypatch.context() as torchrun:
        torchrun.setenv("RANK", "0")
        torchrun.setenv("WORLD_SIZE", "4")
        assert resume.find_checkpoint(config)["ckpt_path"] == str(path)
    settled = resume.find_checkpoint({**config, "ckpt_path": str(path)})
    assert settled["ckpt_path"] == str(path)
    assert resume.goes_on(settled)


def test_changed_settings_are_named_and_another_model_is_refused(compose_config, tmp_path, capsys):
    fit(compose_config(*FAKE))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.is_file()}
    with pytest.raises(ValueError, match="cannot go on with another model") as refused:
        fit(compose_config(*FAKE, "ckpt_path=last", "model.depth=1", "optimizer.weight_decay=0.3", "seed=1"))
    assert "model.depth=1 (was 2), optimizer.weight_decay=0.3 (was 0.05). " in str(refused.value)
    assert f"model.init_from={tmp_path / 'run'}" in str(refused.value)
    assert {path: path.read_bytes() for path in before} == before
    capsys.readouterr()
    probe = fit(compose_config(*FAKE, "ckpt_path=last", "trainer.max_epochs=2", "optimizer.lr=0.1"))
    told = capsys.readouterr().out
    assert "with other settings than before: trainer.max_epochs=2 (was 1), optimizer.lr=0.1 (was 0.002)\n" in told
    assert probe.rates[0][0] > 0.01
