"""The study: its contenders, that it goes on where it was, and the tables of its results."""

import csv
import json
import math
import os
import re
import shlex
import statistics
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import ttest_rel

from fvit.cost.timing import Timing
from tests.scripts import load as load_docs
from tests.tasks import call
from tests.test_benchmarks import FOLDER, load

FIELDS = (
    "contender",
    "match",
    "seed",
    "lr",
    "epochs",
    "width",
    "acc1",
    "acc1_by_epoch",
    "params",
    "macs",
    "images_per_s",
)

SCRIPT = load("study")


@pytest.fixture
def study(monkeypatch, tmp_path):
    monkeypatch.setattr(SCRIPT, "RESULTS", tmp_path / "results")
    return SCRIPT


def results(name, seed, acc1, halfway=0.3, match="macs", width=64, epochs=4):
    values = (name, match, seed, "0.001", epochs, width, acc1, f"{halfway} {acc1}", 200_000, 7_000_000, 500)
    return {field: str(value) for field, value in zip(FIELDS, values, strict=True)}


def by_contender(lines):
    return {
        name: [line for line in lines if line["contender"] == name] for name in {line["contender"] for line in lines}
    }


def test_documented_commands_are_understood(study):
    read = {}
    for line in re.findall(r"python benchmarks/study.py (.*)", study.__doc__):
        command = line.partition("  ")[0]
        read[command] = study.parse(shlex.split(command))
    options, overrides = read["cifar10 --only softmax identity data.root=DIR trainer.max_epochs=8"]
    assert options.only == ["softmax", "identity"]
    assert overrides == ["data.root=DIR", "trainer.max_epochs=8"]
    with pytest.raises(SystemExit):
        study.parse(["lookup", "--only", "softmax", "12"])


def test_ingredients_start_from_the_additive_attention_of_the_paper(study, compose_config):
    bare = {"regions": 1, "gate": "product", "value": "shared", "residual": True, "conv": 0}
    for option, given, value in (("regions", "9", 9), ("gate", "residual", "residual"), ("conv", "3", 3)):
        attention = compose_config(*study.plus(**{option: given}))["model"]["attention"]
        assert attention == {"name": "additive_plus", **bare, option: value}


def test_runs_of_unchanged_width_count_for_both_axes(study, tmp_path):
    lines = [results("softmax", 0, 0.6), results("additive", 0, 0.5, width=72), results("softmax", 1000, 0.4)]
    lines += [results("additive", 0, 0.45, match="shape"), results("additive", 1000, 0.3, width=72)]
    by_shape, by_macs = (study.Study("lookup", match, tmp_path, [], math.inf) for match in ("shape", "macs"))
    assert [by_macs.counts(line) for line in lines] == [True, True, True, False, True]
    assert [by_shape.counts(line) for line in lines] == [True, False, True, True, True]
    page = load_docs("study")
    assert page.by_contender(lines, "macs") == {"softmax": lines[:1], "additive": lines[1:2]}
    assert page.by_contender(lines, "shape") == {"softmax": lines[:1], "additive": lines[3:4]}
    assert page.by_contender(lines[:3], "shape") == {}  # all of them are in the table of equal MACs
    assert page.searches(lines) == {"softmax": lines[2:3], "additive": lines[4:]}


def test_whole_images_take_the_learning_rates_of_small_ones(study, monkeypatch, tmp_path):
    small, whole = (study.Study(name, "macs", tmp_path, [], math.inf) for name in ("cifar10", "cifar10_32px"))
    small.keep([results("softmax", 1000, acc1) | {"lr": lr} for lr, acc1 in (("0.001", 0.3), ("0.002", 0.4))])
    small.keep([results("softmax", 0, 0.5)])
    swept = []
    monkeypatch.setattr(whole, "sweep", lambda name, stage, *overrides, epochs: swept.append((*overrides, epochs)))
    whole.search("softmax")
    whole.train("softmax", 0)
    assert swept == [("optimizer.lr=0.002", "seed=0", 6)]


def test_page_has_a_table_and_a_picture_for_each_axis(tmp_path, monkeypatch):
    page = load_docs("study")
    monkeypatch.setattr(page, "DOCS", tmp_path)
    parts = ("cifar10 macs", "cifar10 shape", "cifar10 longer", "cifar10 search", "lookup macs")
    text = "".join(f"<!-- {part}: written by `make study` -->\n<!-- /{part} -->\n" for part in parts)
    (tmp_path / "study.md").write_text(text, encoding="utf-8")
    (tmp_path / "study").mkdir()
    means = {"softmax": 0.5, "additive": 0.4, "pool": 0.3}
    lines = [results(name, seed, means[name] + seed / 100, means[name]) for name in means for seed in (0, 1, 1000)]
    lines += [results("additive", 0, 0.45, match="shape"), results("pool", 0, 0.65, epochs=8)]
    with (tmp_path / "study" / "cifar10.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(lines)
    page.main()
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    shown = re.findall(r"\((study.*?)\)", text)
    assert shown == ["study_cifar10_macs.svg", "study_cifar10_shape.svg"]
    curves, cost, overview = ((tmp_path / name).read_text(encoding="utf-8") for name in [*shown, "study.svg"])
    assert all("additive" in picture and "softmax" in picture for picture in (curves, overview))
    assert "softmax" in cost
    assert "additive" not in cost  # dominated
    assert text.count("| softmax | 2 | 50.50 ± 6.35 |") == 2
    assert text.count("Standard deviation over seeds") == 2
    assert text.count("Not run yet.") == 1
    assert text.count("| 65.00 |") == 1
    page.main()
    assert (tmp_path / "study.md").read_text(encoding="utf-8") == text


def test_overview_shows_what_ran_on_all_tasks(tmp_path):
    runs = {name: [results(name, 0, 0.5)] for name in ("softmax", "additive", "additive + conv")}
    lookup = {name: runs[name] for name in ("softmax", "additive")}
    load_docs("study").draw_overview({"cifar10": runs, "lookup": lookup}, tmp_path / "overview.svg")
    drawn = re.findall(r"<!-- (.*?) -->", (tmp_path / "overview.svg").read_text(encoding="utf-8"))
    assert {"softmax", "additive"} <= {*drawn}
    assert "additive + conv" not in drawn


@pytest.mark.parametrize(
    ("accuracies", "tried"),
    [((0.5, 0.4), ["0.0005"]), ((0.4, 0.5), ["0.004"]), ((0.5, 0.5), ["0.0005"])],
)
def test_learning_rates_are_searched_beyond_the_better_of_two(study, monkeypatch, tmp_path, accuracies, tried):
    job = study.Study("lookup", "macs", tmp_path, ["trainer.max_epochs=24"], math.inf)  # twice as long
    swept = []

    def sweep(name, stage, rates, seed, epochs):
        assert (seed, epochs) == ("seed=1000", 6)
        swept.append(rates.removeprefix("optimizer.lr=").split(","))
        known = dict(zip(("0.001", "0.002"), accuracies, strict=True))
        job.keep([results(name, 1000, known.get(rate, 0.1)) | {"lr": rate} for rate in swept[-1]])

    monkeypatch.setattr(job, "sweep", sweep)
    job.search("softmax")
    job.search("softmax")
    job.keep([results("softmax", 0, 0.6, epochs=4)])
    assert not job.lines("softmax", 0)  # shorter than this study's
    assert swept == [["0.001", "0.002"], tried]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.exhaustive if index else []) for index, name in enumerate(SCRIPT.STUDIES)],
)
def test_every_contender_composes_in_every_study(name, compose_config):
    for contender, overrides in SCRIPT.CONTENDERS.items():
        chosen = [override.replace("SQUARES", str(SCRIPT.SQUARES[name])) for override in overrides]
        config = compose_config(*SCRIPT.STUDIES[name], *chosen, "model.match=macs")
        assert config["trainer"]["max_epochs"] > 1, contender


@pytest.mark.slow
def test_finished_runs_are_not_run_again(study, monkeypatch, tmp_path, capsys):
    small = ["data.num_images=256", "model.depth=1", "model.embed_dim=16", "trainer.max_epochs=1"]
    arguments = ["study.py", "lookup", "--only", "additive + projection", "--folder", str(tmp_path / "runs"), *small]
    monkeypatch.setattr("sys.argv", arguments)

    start = subprocess.run

    def run_here(command, **pipes):
        if command[:3] != [sys.executable, "-m", "fvit.train"]:
            return start(command, **pipes)  # a run asks git for its commit, once per process
        return subprocess.CompletedProcess(command, call(tmp_path, "train", *command[3:]))

    monkeypatch.setattr("subprocess.run", run_here)
    study.main()
    with (tmp_path / "results" / "lookup.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    best = max(sorted(lines[:3], key=lambda line: float(line["lr"])), key=lambda line: float(line["acc1"]))["lr"]
    assert {line["seed"] for line in lines[:3]} == {"1000"}
    assert [(line["seed"], line["lr"]) for line in lines[3:]] == [(str(seed), best) for seed in range(3)]
    assert [line["epochs"] for line in lines] == ["6"] * 3 + ["1"] * 3
    monkeypatch.setattr("subprocess.run", lambda *args, **options: pytest.fail("nothing is missing"))
    capsys.readouterr()
    study.main()
    assert capsys.readouterr().out.endswith(
        "lookup.csv has all of these runs. Delete it, or lines of it, to train them again.\n"
    )


def test_what_is_not_run_is_said(study, monkeypatch, tmp_path, capsys):
    arguments = ["study.py", "lookup", "--only", "softmax", "linear", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*arguments, "--hours", "0"])
    study.main()
    assert capsys.readouterr().out == "The time is over. The same command goes on.\n"
    monkeypatch.setattr("sys.argv", [*arguments, "--match", "shape"])
    with pytest.raises(SystemExit, match=r"for softmax, linear: `python benchmarks/study.py lookup` searches it$"):
        study.main()


def test_a_mistake_ends_in_one_message(study, monkeypatch, tmp_path):
    arguments = ["study.py", "lookup", "--only", "softmax", "--folder", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*arguments, "data.tusk=lookup"])
    with pytest.raises(SystemExit, match=r"^unknown key data\.tusk, did you mean data\.task"):
        study.main()

    monkeypatch.syspath_prepend(FOLDER)
    script = load("study_speed")
    monkeypatch.setattr("sys.argv", ["study_speed.py", "lookup", "data.tusk=lookup"])
    with pytest.raises(SystemExit, match=r"^unknown key data\.tusk, did you mean data\.task"):
        script.main()


def test_a_failed_run_is_reported_with_its_reason(study, monkeypatch, tmp_path):
    printed = iter(["Errors\n job 0  data.root is missing\n", ""])

    def fails(command, stdout, **options):
        os.write(stdout.fileno(), next(printed).encode())
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr("subprocess.run", fails)
    monkeypatch.setattr("sys.argv", ["study.py", "lookup", "--only", "softmax", "--folder", str(tmp_path)])
    output = tmp_path / "lookup" / "macs" / "softmax" / "search_0.001_0.002" / "output.txt"
    for reason in ("job 0  data.root is missing", "it printed nothing"):
        with pytest.raises(SystemExit) as stopped:
            study.main()
        assert stopped.value.code == f"softmax failed with exit code 1: {reason} ({output} has its whole output)"


def test_speeds_are_ratios_to_softmax_and_replace_those_of_the_same_study(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    script = load("study_speed")
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    monkeypatch.setattr(script, "CONTENDERS", ["softmax", "additive"])
    for study in "ab":
        script.save(study, [dict.fromkeys(("study", "match", "contender", "speed"), "old") | {"study": study}])
    monkeypatch.setattr(
        script,
        "time_in_turns",
        lambda steps, rounds: {
            name: Timing((2.0, 3.0, 4.0) if name == "softmax" else (4.0, 4.0, 4.0))
            for name in steps
            if not steps[name]()
        },
    )
    small = ["data.num_images=64", "global_batch_size=4", "model.depth=1", "model.embed_dim=16"]
    [softmax, additive] = script.speeds("lookup", "macs", ["model.match=macs", *small], 3)
    assert (softmax["speed"], softmax["images_per_s"]) == ("1.000", "1")
    assert [additive[key] for key in ("study", "match", "contender")] == ["lookup", "macs", "additive"]
    assert [additive[key] for key in ("low", "speed", "high", "images_per_s")] == ["0.500", "0.750", "1.000", "1"]
    assert "lookup, same macs: additive 0.750 (0.500 to 1.000), 1 images/s" in capsys.readouterr().out
    keys = ("study", "match", "contender", "speed")
    script.save("b", [{key: {**additive, "study": "b"}[key] for key in keys}])
    with (tmp_path / "speed.csv").open(encoding="utf-8", newline="") as file:
        assert [line["speed"] for line in csv.DictReader(file)] == ["old", "0.750"]


def test_page_and_studies_agree_on_the_epochs(study, compose_config):
    epochs = {name: str(compose_config(*base)["trainer"]["max_epochs"]) for name, base in study.STUDIES.items()}
    assert epochs == load_docs("study").EPOCHS


def test_differences_are_paired_by_seed():
    page = load_docs("study")
    ours, theirs = (0.61, 0.63, 0.62), (0.60, 0.61, 0.61)
    lines = [results("additive", seed, acc1, 0.4) for seed, acc1 in enumerate(ours)]
    lines += [results("softmax", seed, acc1) for seed, acc1 in enumerate(theirs)]
    lines += [results("identity", 0, 0.5)]
    text = page.render(by_contender(lines), {"additive": "0.751"})
    test = ttest_rel([100 * a for a in ours], [100 * b for b in theirs])
    interval = test.confidence_interval()
    half = (interval.high - interval.low) / 2
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["additive", "softmax", "identity"]
    assert rows[2][2:5] == [
        f"62.00 ± {100 * 4.302653 * statistics.stdev(ours) / math.sqrt(3):.2f}",
        f"{100 * statistics.stdev(ours):.2f}",
        f"+{test._estimate:.2f} ± {half:.2f}",
    ]
    assert [row[-1] for row in rows[2:]] == ["0.75", "", ""]
    assert rows[3][4] == ""
    assert page.render_pairs(by_contender(lines)).splitlines()[2:] == [
        "| softmax | identity | 1 | +10.00 | +10.0 |",
        "| additive | identity | 1 | +11.00 | +11.0 |",
    ]
    more = [results("softmax + conv", seed, acc1) for seed, acc1 in enumerate(ours)]
    assert f"| softmax + conv | softmax | 3 | {rows[2][4]} | +1.0, +2.0, +1.0 |" in page.render_pairs(
        by_contender([*lines, *more])
    )
    assert rows[4][1:5] == ["1", "50.00", "", "-10.00"]


def test_of_relations_each_seed_is_listed_and_drawn(tmp_path):
    page = load_docs("study")
    lines = [results("linear", seed, acc1) for seed, acc1 in ((2, 0.235), (0, 1.0), (1, 0.76))]
    text = page.section(by_contender(lines), {}, normal=False)
    assert "| linear | 3 | 66.50 | 100, 76, 24 |" in text
    assert "deviation" not in text
    drawn = {}
    for means in (True, False):
        page.draw_curves(by_contender(lines), tmp_path / "curves.svg", means)
        drawn[means] = (tmp_path / "curves.svg").read_text(encoding="utf-8").count("stroke: #1f77b4; stroke-width: 1.5")
    assert drawn[False] == drawn[True] + 2


def test_power_is_that_of_a_t_test():
    """Of 20,000 pairs of samples that differ by the stated amount, four in five differ significantly."""
    page = load_docs("study")
    lines = [results(name, seed, acc1) for name in "abcdefgh" for seed, acc1 in enumerate((0.50, 0.51, 0.52))]
    stated = page.power(by_contender(lines))
    assert stated.startswith("Standard deviation over seeds, pooled: 1.00 points (16 degrees of freedom).")
    smallest = float(stated.split("difference of ")[1].split(" points")[0])
    generator = np.random.default_rng(0)
    means = generator.normal((0, smallest), 1 / math.sqrt(3), (20_000, 2))
    pooled = (generator.chisquare(16, 20_000) / 16) ** 0.5
    found = abs(means[:, 1] - means[:, 0]) / (pooled * math.sqrt(2 / 3)) > 2.1199
    assert found.mean() == pytest.approx(0.8, abs=0.02)


def test_the_ranking_halfway_is_compared_with_the_last():
    page = load_docs("study")
    lines = [results(name, 0, acc1, half) for name, acc1, half in (("a", 0.6, 0.3), ("b", 0.5, 0.2), ("c", 0.4, 0.1))]
    assert page.stability(by_contender(lines)).endswith("over 3 rows: 1.00.")
    assert page.stability(by_contender(lines[:2])) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "attention", "seeds"),
    [
        ("study_imagenet", "additive", "0"),
        pytest.param("study_imagenet", "softmax,additive", "0,1", marks=pytest.mark.exhaustive),
        pytest.param("study_imagenette", "softmax,additive", "0,1", marks=pytest.mark.exhaustive),
    ],
)
def test_studies_for_gpus_train_on_noise_in_two_processes(fvit, tmp_path, experiment, attention, seeds):
    small = ["data=fake", "data.img_size=32", "model.patch_size=8", "model.depth=1", "model.embed_dim=24"]
    short = ["hardware=ddp_cpu", "debug=limit", "trainer.max_epochs=1", "global_batch_size=16"]
    swept = [f"attention={attention}", f"seed={seeds}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = fvit("train", "-m", f"experiment={experiment}", *small, *short, *swept)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = [json.loads(path.read_text()) for path in (tmp_path / "sweep").glob("*/metrics.json")]
    jobs = len(attention.split(",")) * len(seeds.split(","))
    assert [run["status"] for run in runs] == ["finished"] * jobs
