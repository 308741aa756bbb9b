"""Tables and facts on a terminal, in a pipe and in a log."""

import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fvit.config.overrides import parse, value_of
from fvit.launch import console

ROWS = [("0-3", "Attention → Additive", "q, k", "query_logit, key_logit, transform", "v, proj")]


@pytest.mark.parametrize(
    ("model", "title"),
    [
        ({"keep": ["qkv"], "pretrained": True}, "Attention exchanged in a pretrained deit"),
        ({"keep": [], "pretrained": True}, "Attention exchanged in a pretrained deit"),
        ({"keep": ["qkv"], "pretrained": False}, "Attention exchanged in a fresh deit"),
    ],
)
def test_an_exchange_is_shown_if_there_were_weights_to_keep(capsys, model, title):
    console.print_exchange({"name": "deit", **model}, ROWS)
    out = capsys.readouterr().out
    assert title in out
    assert all(word in out for word in ("blocks", "kept", "initialised", "dropped", *ROWS[0]))


@pytest.mark.parametrize(
    ("model", "rows"), [({"keep": [], "pretrained": False}, ROWS), ({}, ROWS), ({"keep": [], "pretrained": True}, [])]
)
def test_an_exchange_is_not_shown_if_there_were_none(capsys, model, rows):
    console.print_exchange({"name": "deit", **model}, rows)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("tested", [True, False])
def test_results_have_a_test_only_where_there_is_one(capsys, tmp_path, tested):
    (tmp_path / "multirun.yaml").touch()
    metrics = {"val/acc1": 0.5, **({"test/acc1": 0.25} if tested else {})}
    console.print_results("run", metrics, 3.0, tmp_path / "0")
    out = capsys.readouterr().out
    assert ("test acc1" in out, "25.00 %" in out) == (tested, tested)
    assert "50.00 %" in out


def test_a_title_is_not_markup(capsys):
    console.print_facts("Dashboard of vits [red]", [("a", "b")])
    assert capsys.readouterr().out.startswith("Dashboard of vits [red]\n")


def test_a_path_with_a_space_can_be_copied(capsys, tmp_path):
    (tmp_path / "my runs" / "checkpoints").mkdir(parents=True)
    (tmp_path / "my runs" / "checkpoints" / "last.ckpt").touch()
    console.print_results("a", {}, 1.0, tmp_path / "my runs")
    assert f"""fvit-eval "ckpt_path='{tmp_path}/my runs'"\n""" in capsys.readouterr().out


@given(st.text(st.sampled_from("ab'\"\\ ,=${}[]()!*&|;#:%@`~é名🙂\t\r"), min_size=1, max_size=12))
@example(":smile:")
@example("it's [red]")
@settings(max_examples=50, deadline=None)
def test_printed_commands_survive_the_shell(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("runs") / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    typed = ["data.root='it\\'s'", "seed=3", "model.depth=2", "hardware=cpu", "attention=softmax"]
    (folder / "overrides.yaml").write_text(json.dumps(typed))
    with redirect_stdout(io.StringIO(newline="")) as printed:
        console.print_results("a", {}, 1.0, folder, epochs=3)
    commands = [line[14:] for line in printed.getvalue().split("\n") if "fvit-" in line]
    evaluate, resume, compare = map(shlex.split, commands)
    for [program, *overrides] in (evaluate, resume):
        [path] = [override for key, override in parse(overrides) if key == "ckpt_path"]
        assert value_of(path) == str(folder), program
    assert "hardware=cpu" in evaluate
    assert resume[-1] == "trainer.max_epochs=6"
    kept = [typed[0], "model.depth=2", "hardware=cpu"]
    assert compare == ["fvit-train", "-m", *kept, "attention=additive,softmax,linear", "seed=0,1,2"]


def test_commands_are_not_printed_for_the_job_of_a_sweep(capsys, tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "multirun.yaml").touch()
    console.print_results("a", {}, 1.0, tmp_path / "0")
    assert "fvit-" not in capsys.readouterr().out


TABLE = """
from fvit.launch.console import print_facts, print_rows
from fvit.launch.progress import counting
head = ("job", *(f"figure {n}" for n in range(9)))
print_rows("Results", head, [("logger=[csv] " + "x" * 60, *("12.34 %",) * 9)])
print_rows("Few", head[:6], [("logger=[csv] " + "x" * 60, *("12.34 %",) * 5)])
print_facts("Facts", [("folder", "y" * 120)])
with counting("images", 2, 0) as advance:
    advance(2)
"""
ESCAPE = "\x1b"


def _on_a_terminal(program, **environment):
    """What a program writes to a terminal of 80 columns."""
    main, side = pty.openpty()
    variables = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    variables |= {"TERM": "xterm-256color", "COLUMNS": "80", **environment}
    with subprocess.Popen([sys.executable, "-c", program], stdout=side, stderr=side, env=variables) as process:
        os.close(side)
        text = b""
        try:
            while chunk := os.read(main, 65536):
                text += chunk
        except OSError:  # how Linux tells that the other side is closed
            pass
    os.close(main)
    assert process.returncode == 0, text
    return text.decode()


@pytest.mark.parametrize("columns", [{}, {"COLUMNS": "80"}])
def test_a_pipe_gets_plain_rows_that_are_not_folded(columns):
    environment = {**os.environ, "TERM": "xterm-256color", **columns}
    done = subprocess.run(
        [sys.executable, "-c", TABLE], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert ESCAPE not in done.stdout + done.stderr
    assert not re.search(r"[\u2500-\u257f]", done.stdout)  # of frames
    head, row = (re.split(" {2,}", line.strip()) for line in done.stdout.splitlines()[1:3])
    assert head == ["job", *(f"figure {n}" for n in range(9))]
    assert row == ["logger=[csv] " + "x" * 60, *["12.34 %"] * 9]
    assert f" folder  {'y' * 120}\n" in done.stdout
    assert "2 of 2 images" in done.stdout


@pytest.mark.parametrize("width", [80, 100])
def test_tables_fit_the_terminal(width):
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", _on_a_terminal(TABLE, COLUMNS=str(width)))
    tables = text[text.index("Results") : text.index("Facts")]
    lines = [line.rstrip() for line in tables.splitlines()]
    assert max(map(len, lines)) <= width
    assert bool(re.search(r"[\u2500-\u257f]", tables)) is (width == 100)
    [figures] = [line for line in tables[tables.index("Few") :].splitlines() if "%" in line]
    assert figures.count("12.34 %") == 5
    assert re.sub(r"[\s\u2500-\u257f]", "", tables).count("x" * 3) > 10


def test_no_color_removes_colours():
    """Of the bar: 30 to 37, 38, 90 to 97 among the parameters of an escape sequence."""
    colour = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])(?:;\d+)*m")
    assert colour.search(_on_a_terminal(TABLE))
    assert not colour.search(_on_a_terminal(TABLE, NO_COLOR="1"))
