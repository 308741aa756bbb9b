import os

import pytest

from fvit.reports.runs.gather import gather
from fvit.reports.runs.groups import ACCURACY, group, short_names
from tests.reports.runs.folders import ACCURACIES, write_run, write_sweep


def rows(folder, baseline="softmax"):
    return group(gather([folder]), baseline)


def test_runs_that_differ_by_seed_alone_are_one_row(tmp_path):
    write_sweep(tmp_path)
    additive, softmax = rows(tmp_path)
    assert (additive.attention, softmax.attention) == ("additive", "softmax"), "the most accurate first"
    assert additive.values(ACCURACY) == dict(enumerate(ACCURACIES["additive"]))
    assert additive.estimate(ACCURACY).mean == pytest.approx(0.93)
    assert (additive.model, additive.data, additive.label) == ("vit_atto", "digits", "additive")
    assert additive.baseline is softmax
    assert softmax.baseline is None
    assert additive.difference().mean == pytest.approx(0.02)
    assert additive.difference().n == 3


def test_a_run_that_did_not_finish_does_not_count(tmp_path):
    write_run(tmp_path / "0", seed=0, accuracy=0.5)
    write_run(tmp_path / "1", seed=1, status="failed", metrics={"val/acc1": 0.9})
    [row] = rows(tmp_path)
    assert (len(row.runs), row.values(ACCURACY)) == (2, {0: 0.5})


def test_the_same_seed_twice_counts_once_as_it_was_run_last(tmp_path):
    for name, accuracy, moment in (("b", 0.5, 2000), ("a", 0.7, 3000), ("c", 0.6, 1000)):
        folder = write_run(tmp_path / name, accuracy=accuracy)
        for path in (folder, folder / "metrics.json"):
            os.utime(path, (moment, moment))
    [row] = rows(tmp_path)
    assert row.values(ACCURACY) == {0: 0.7}
    assert row.estimate(ACCURACY).half is None


def test_settings_are_what_was_set_and_differs(tmp_path):
    common = ["optimizer.lr=1e-3", "trainer.max_epochs=3", "logger=none", "hydra.run.dir=x"]
    write_run(tmp_path / "a", overrides=common, optimizer__lr=1e-3)
    write_run(tmp_path / "b", accuracy=0.8, overrides=["augment=deit"], choices={"augment": "deit"})
    first, second = rows(tmp_path)
    assert first.settings == {"optimizer.lr": 0.001, "augment": None}
    assert second.settings == {"optimizer.lr": 0.002, "augment": "deit"}
    assert second.label == "additive lr=0.002 augment=deit"


def test_rows_that_the_command_line_does_not_tell_apart_are_told_apart(tmp_path):
    write_run(tmp_path / "a", optimizer__lr=0.1)
    write_run(tmp_path / "b", accuracy=0.8)
    assert [row.label for row in rows(tmp_path)] == ["additive lr=0.1", "additive lr=0.002"]


def test_models_and_data_are_told_where_they_differ(tmp_path):
    write_run(tmp_path / "a", choices={"model": "vit_tiny"}, model__depth=12)
    write_run(tmp_path / "b", "native", accuracy=0.8, choices={"model": "timm"}, model__name="resnet18")
    write_run(tmp_path / "c", accuracy=0.7, data__name="cifar10")
    assert [row.label for row in rows(tmp_path)] == [
        "additive vit_tiny data=digits",
        "native resnet18 data=digits",
        "additive vit_atto data=cifar10",
    ]


def test_a_baseline_is_the_same_but_for_its_attention(tmp_path):
    for lr in (1e-3, 2e-3):
        for attention, accuracy in (("softmax", 0.5), ("additive", 0.5 + 100 * lr)):
            options = dict(overrides=[f"optimizer.lr={lr}"], optimizer__lr=lr)
            write_run(tmp_path / f"{attention}{lr}", attention, accuracy=accuracy, **options)
    write_run(tmp_path / "alone", "linear", accuracy=0.1, optimizer__lr=3e-3)
    found = {row.label: row.difference() for row in rows(tmp_path)}
    assert found["additive lr=0.001"].mean == pytest.approx(0.1)
    assert found["additive lr=0.002"].mean == pytest.approx(0.2)
    assert found["linear lr=0.003"] is None
    assert found["softmax lr=0.001"] is None


def test_a_width_that_was_matched_is_no_difference(tmp_path):
    write_run(tmp_path / "a", model__match="macs", model__embed_dim=120)
    write_run(tmp_path / "b", "softmax", accuracy=0.8, model__match="macs", model__embed_dim=96)
    assert rows(tmp_path)[0].difference().mean == pytest.approx(0.1)


def test_of_two_baselines_none_is_chosen(tmp_path):
    write_run(tmp_path / "a", "softmax", model__attention={"name": "softmax", "scale": 1})
    write_run(tmp_path / "b", "softmax", model__attention={"name": "softmax", "scale": 2})
    write_run(tmp_path / "c", "additive")
    assert [row.difference() for row in rows(tmp_path)] == [None] * 3


def test_what_never_wrote_its_configuration_or_only_measured_is_in_no_row(tmp_path):
    (tmp_path / "a" / ".hydra").mkdir(parents=True)
    (write_run(tmp_path / "b") / "config.yaml").write_text("ckpt_path: best.ckpt\n")
    assert rows(tmp_path) == []


def test_attention_may_be_a_word_where_hydra_told_nothing(tmp_path):
    folder = write_run(tmp_path / "a", model__attention="softmax")
    (folder / ".hydra" / "hydra.yaml").unlink()
    [one] = group(gather([tmp_path]), "softmax")
    assert one.attention == "softmax"


def test_names_are_as_short_as_they_can_be():
    keys = ["optimizer.lr", "scheduler.min_lr", "model.depth", "a.x.name", "b.x.name", "name"]
    expected = ["lr", "min_lr", "depth", "a.x.name", "b.x.name", "name"]
    assert list(short_names(keys).values()) == expected
