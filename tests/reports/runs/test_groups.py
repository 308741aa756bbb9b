import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from fvit.config.paths import conf_dir
from fvit.reports.runs.collect import collect_runs
from fvit.reports.runs.groups import ACCURACY, MeanCI, mean_ci, paired_difference, rank_runs
from fvit.reports.runs.settings import setting_text
from tests.reports.runs.folders import ACCURACIES, write_lived_in, write_lr_run, write_run, write_sweep


def rankings_of(folder, baseline="softmax"):
    return rank_runs(collect_runs([folder]), baseline)


def groups_of(folder, baseline="softmax"):
    return [group for ranking in rankings_of(folder, baseline) for group in ranking.groups]


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_the_interval_is_students(n):
    values = np.random.default_rng(n).normal(0.9, 0.01, n)
    found = mean_ci(list(values))
    interval = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert found.n == n
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(interval, rel=1e-12)


def test_one_value_has_no_interval():
    assert mean_ci([0.5]) == MeanCI(0.5, None, 1)
    assert mean_ci([]) is None


def test_differences_are_paired_by_seed():
    """Seeds vary by 10 points, their differences by 1: unpaired, the difference would not be significant."""
    ours, theirs = {0: 0.50, 1: 0.60, 2: 0.70, 7: 0.1}, {0: 0.48, 1: 0.59, 2: 0.67, 8: 0.9}
    found = paired_difference(ours, theirs)
    differences = [ours[seed] - theirs[seed] for seed in (0, 1, 2)]
    test = stats.ttest_rel([ours[s] for s in (0, 1, 2)], [theirs[s] for s in (0, 1, 2)]).confidence_interval(0.95)
    assert (found.mean, found.n) == (pytest.approx(np.mean(differences)), 3)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((test.low, test.high))
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert paired_difference({0: 0.5}, {0: 0.25}) == MeanCI(0.25, None, 1)


def test_runs_that_differ_only_by_seed_are_one_group(tmp_path):
    write_sweep(tmp_path)
    additive, softmax = groups_of(tmp_path)
    assert (additive.attention, softmax.attention) == ("additive", "softmax"), "the most accurate first"
    assert additive.values(ACCURACY) == dict(enumerate(ACCURACIES["additive"]))
    assert additive.mean(ACCURACY).mean == pytest.approx(0.93)
    assert (additive.model, additive.label) == ("vit_atto", "additive")
    assert additive.baseline is softmax
    assert softmax.baseline is None
    assert (additive.difference(ACCURACY).mean, additive.difference(ACCURACY).n) == (pytest.approx(0.02), 3)


def test_an_unfinished_run_does_not_count(tmp_path):
    write_run(tmp_path / "0", seed=0, accuracy=0.5)
    write_run(tmp_path / "1", seed=1, status="failed", metrics={"val/acc1": 0.9})
    write_run(tmp_path / "2", seed=2, status="running")
    [group] = groups_of(tmp_path)
    assert (len(group.runs), group.values(ACCURACY)) == (2, {0: 0.5}), "a running one may still count"


def test_the_newest_run_of_a_seed_counts(tmp_path):
    for name, accuracy, moment in (("b", 0.5, 2000), ("a", 0.7, 3000), ("c", 0.6, 1000)):
        folder = write_run(tmp_path / name, accuracy=accuracy)
        for path in (folder, folder / "metrics.json"):
            os.utime(path, (moment, moment))
    [group] = groups_of(tmp_path)
    assert group.values(ACCURACY) == {0: 0.7}
    assert group.mean(ACCURACY).half_width is None


def test_lived_in_logs_are_compared_where_they_can_be(tmp_path):
    write_lived_in(tmp_path)
    digits, pets = rankings_of(tmp_path)
    assert (digits.data, pets.data) == ("digits", "pets")
    assert [group.label for group in digits.groups] == ["additive callbacks=ema", "additive", "softmax"]
    assert [len(group.finished) for group in digits.groups] == [1, 3, 3]
    assert digits.groups[1].difference(ACCURACY).n == 3, "loggers, paths and workers are no difference"
    assert [group.label for group in pets.groups] == ["additive", "softmax"]


@pytest.mark.parametrize("name", ["agc.AdaptiveGradientClipping", "ema.EMA", "unfreeze.Unfreeze"])
def test_a_callback_that_changes_what_is_learnt_is_a_setting(tmp_path, name):
    """Neither are its runs repetitions of those without it, nor of those with other options."""
    for number, strength in enumerate((None, None, 1, 2)):
        acting = {} if strength is None else {"mine": {"_target_": f"fvit.callbacks.{name}", "strength": strength}}
        write_run(tmp_path / str(number), seed=number, accuracy=0.9 - 0.1 * number, callbacks=acting)
    assert [(group.settings_text, len(group.runs)) for group in groups_of(tmp_path)] == [
        ("callbacks=default", 2),
        ("strength=1", 1),
        ("strength=2", 1),
    ]


def test_the_callbacks_of_every_run_are_no_settings(tmp_path):
    callbacks = yaml.safe_load((conf_dir() / "callbacks" / "default.yaml").read_text(encoding="utf-8"))
    write_run(tmp_path / "0", callbacks=callbacks)
    write_run(tmp_path / "1", seed=1, callbacks={})
    assert [group.settings_text for group in groups_of(tmp_path)] == [""]


def test_paths_of_ones_own_callback_are_no_settings(tmp_path):
    for seed in (0, 1):
        own = {"mine": {"_target_": "mine.Noise", "folder": f"/somewhere/{seed}", "sigma": 0.1}}
        write_run(tmp_path / str(seed), seed=seed, callbacks=own)
    write_run(tmp_path / "without", accuracy=0.5)
    assert [(group.settings_text, len(group.runs)) for group in groups_of(tmp_path)] == [
        ("callbacks=mine", 2),
        ("callbacks=default", 1),
    ]


def test_null_is_named_where_most_rows_have_a_value(tmp_path):
    for attention in ("additive", "softmax", "linear"):
        write_run(tmp_path / attention, attention, trainer__gradient_clip_val=1.0)
    write_run(tmp_path / "unclipped", accuracy=0.5, trainer__gradient_clip_val=None)
    write_run(tmp_path / "default", "gmlp", accuracy=0.4)  # as of +trainer.KEY=VALUE that others set
    [ranking] = rankings_of(tmp_path)
    assert ranking.common == {"gradient_clip_val": 1.0}
    assert [group.settings_text for group in ranking.groups[3:]] == ["gradient_clip_val=null"] * 2


def test_options_of_other_mechanisms_are_not_named(tmp_path):
    for depth in (2, 3):
        window = {"name": "window", "window": 7}
        write_run(tmp_path / str(depth), "window", model__attention=window, trainer__max_epochs=depth)
    window = {"name": "window", "window": 4}
    write_run(tmp_path / "4", "window", model__attention=window, overrides=["model.attention.window=4"])
    write_run(tmp_path / "7", "window", model__attention={"name": "window", "window": 7}, trainer__max_epochs=4)
    write_run(tmp_path / "other", "softmax")
    assert all("window" not in group.settings_text for group in groups_of(tmp_path) if group.attention == "softmax")


def test_no_option_is_named_where_most_rows_have_one(tmp_path):
    for attention in ("additive", "softmax"):
        write_run(tmp_path / attention, attention, overrides=["experiment=x"], choices={"experiment": "x"})
    write_run(tmp_path / "without", accuracy=0.5, choices={"experiment": None}, optimizer__lr=0.1)
    assert [group.settings_text for group in groups_of(tmp_path)] == ["", "", "experiment=null"]


def test_settings_are_the_overrides_that_differ(tmp_path):
    same = ["optimizer.lr=1e-3", "trainer.max_epochs=3", "logger=none", "hydra.run.dir=x"]
    write_run(tmp_path / "a", overrides=same, optimizer__lr=1e-3)
    write_run(tmp_path / "b", accuracy=0.8, overrides=["augment=deit"], choices={"augment": "deit"})
    first, second = groups_of(tmp_path)
    assert first.settings == {"optimizer.lr": 0.001, "augment": None}
    assert second.settings == {"optimizer.lr": 0.002, "augment": "deit"}
    assert second.label == "additive lr=0.002 augment=deit"


def test_what_most_rows_share_is_named_once(tmp_path):
    for attention in ("additive", "softmax", "linear"):
        write_run(tmp_path / attention, attention)
    write_lr_run(tmp_path / "lr", 0.1, accuracy=0.5)
    deep = dict(choices={"model": "vit_tiny"}, model__depth=12)
    write_run(tmp_path / "implied", accuracy=0.4, **deep)
    write_run(
        tmp_path / "given", accuracy=0.3, overrides=["model.depth=2"], choices={"model": "vit_tiny"}, model__depth=2
    )
    [ranking] = rankings_of(tmp_path)
    assert ranking.common == {"lr": 0.002, "depth": 4}
    assert [group.settings_text for group in ranking.groups[3:]] == ["lr=0.1", "depth=12", "depth=2"]


def test_groups_with_the_same_overrides_are_distinguished_by_their_configs(tmp_path):
    write_run(tmp_path / "a", optimizer__lr=0.1)
    write_run(tmp_path / "b", accuracy=0.8)
    assert [group.label for group in groups_of(tmp_path)] == ["additive lr=0.1", "additive lr=0.002"]


def test_the_model_is_in_the_label_where_there_are_several(tmp_path):
    write_run(tmp_path / "a", choices={"model": "vit_tiny"}, model__depth=12)
    write_run(tmp_path / "b", "native", accuracy=0.8, choices={"model": "timm"}, model__name="resnet18")
    assert [group.label for group in groups_of(tmp_path)] == ["additive vit_tiny", "native resnet18"]


def test_ones_own_mechanisms_are_named_by_their_class(tmp_path):
    for name, accuracy in (("mine:Squared", 0.9), ("mine:Cubed", 0.8)):
        options = dict(choices={"attention": "own"}, model__attention={"name": name})
        write_run(tmp_path / name, "own", accuracy=accuracy, overrides=[f"model.attention.name={name}"], **options)
    given = dict(overrides=["model.attention.name=linear"], model__attention={"name": "linear"})
    write_run(tmp_path / "given", "softmax", accuracy=0.7, **given)
    assert [group.label for group in groups_of(tmp_path)] == ["mine:Squared", "mine:Cubed", "linear"]


@pytest.mark.parametrize("source", ["torchvision", "own"])
def test_torch_datasets_are_datasets_of_their_own(tmp_path, source):
    for name in ("FashionMNIST", "mine:photos"):
        write_run(tmp_path / name, data__name=source, data__dataset=name)
    assert sorted(ranking.data for ranking in rankings_of(tmp_path)) == ["FashionMNIST", "mine:photos"]


@pytest.mark.parametrize(
    ("roots", "names"),
    [
        (["/a/pets", "/a/birds/"], ["birds", "pets"]),
        (["/a/pets/data", "/a/birds/data"], ["birds/data", "pets/data"]),
        (["/a/pets", "/a/pets/"], ["pets"]),
        (["pets", "./pets", str(Path("pets").absolute())], ["pets"]),
        (["/pets", "/a/pets"], ["/pets", "a/pets"]),
    ],
)
def test_folders_are_datasets_of_their_own(tmp_path, roots, names):
    for number, root in enumerate(roots):
        write_run(tmp_path / str(number), seed=number, data__name="folder", data__root=root)
    assert [ranking.data for ranking in rankings_of(tmp_path)] == names


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("logs/train/runs/NAME", "NAME"),
        ("logs/train/runs/NAME/checkpoints/best.ckpt", "NAME"),
        ("/a/weights.pth", "weights.pth"),
        ("cosine", "cosine"),
        (1e-3, "0.001"),
        (["a/b"], '["a/b"]'),
    ],
)
def test_settings_name_the_last_part_of_a_path(value, text):
    assert setting_text(value) == text


def test_copies_of_a_known_dataset_are_one(tmp_path):
    for number, root in enumerate(("/a/imagenet", "/b/imagenet_256")):
        write_run(tmp_path / str(number), seed=number, data__name="imagenet", data__root=root)
    [ranking] = rankings_of(tmp_path)
    assert (ranking.data, len(ranking.groups)) == ("imagenet", 1)


def test_the_baseline_differs_only_in_its_attention(tmp_path):
    for lr in (1e-3, 2e-3):
        for attention, accuracy in (("softmax", 0.5), ("additive", 0.5 + 100 * lr)):
            write_lr_run(tmp_path / f"{attention}{lr}", lr, attention, accuracy=accuracy)
    write_run(tmp_path / "alone", "linear", accuracy=0.1, optimizer__lr=3e-3)
    found = {group.label: group.difference(ACCURACY) for group in groups_of(tmp_path)}
    assert found["additive lr=0.001"].mean == pytest.approx(0.1)
    assert found["additive lr=0.002"].mean == pytest.approx(0.2)
    assert found["linear lr=0.003"] is None
    assert found["softmax lr=0.001"] is None


def test_a_matched_width_may_differ_from_the_baselines(tmp_path):
    write_run(tmp_path / "a", model__match="macs", model__embed_dim=120)
    write_run(tmp_path / "b", "softmax", accuracy=0.8, model__match="macs", model__embed_dim=96)
    assert groups_of(tmp_path)[0].difference(ACCURACY).mean == pytest.approx(0.1)


def test_an_ambiguous_baseline_is_none(tmp_path):
    write_run(tmp_path / "a", "softmax", model__attention={"name": "softmax", "scale": 1})
    write_run(tmp_path / "b", "softmax", model__attention={"name": "softmax", "scale": 2})
    write_run(tmp_path / "c", "additive")
    assert [group.difference(ACCURACY) for group in groups_of(tmp_path)] == [None] * 3


def test_runs_without_a_model_are_in_no_group(tmp_path):
    (tmp_path / "a" / ".hydra").mkdir(parents=True)
    (write_run(tmp_path / "b") / "config.yaml").write_text("ckpt_path: best.ckpt\n")
    assert groups_of(tmp_path) == []


def test_without_hydras_choices_the_config_names_the_attention(tmp_path):
    folder = write_run(tmp_path / "a", model__attention="softmax")
    (folder / ".hydra" / "hydra.yaml").unlink()
    assert groups_of(tmp_path)[0].attention == "softmax"
