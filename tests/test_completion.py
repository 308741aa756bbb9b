"""Completion in bash: the function that fvit-train installs, called as bash calls it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
[INSTALLATION] = re.findall(r"^```bash\n(eval .*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
PROGRAMS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
# What bash sets when Tab is pressed, and what it would offer.
TAB = """
complete -p {program} | grep -q -- '-F hydra_bash_completion' || exit 3
COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}; COMP_CWORD={word}
hydra_bash_completion
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The commands as pip installs them."""
    folder = tmp_path_factory.mktemp("bin")
    for name, entry in PROGRAMS.items():
        module, function = entry.split(":")
        (folder / name).write_text(
            f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        )
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def complete(programs, tmp_path):
    def press_tab(line):
        words = line.split(" ")
        script = INSTALLATION + TAB.format(program=words[0], line=line, word=len(words) - 1)
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "--norc", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout.split()

    return press_tab


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "fvit-train attention=addi",
            {f"attention=additive{rest}" for rest in ("", "_plus", "_fastformer")},
        ),
        ("fvit-train attention=softmax trainer.max_e", {"trainer.max_epochs="}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("fvit-train optim", {"optimizer=", "optimizer."}),
                ("fvit-eval ck", {"ckpt_path="}),
                ("fvit-bench model=vit_t", {"model=vit_tiny"}),
                ("fvit-report base", {"baseline="}),
            )
        ),
    ],
)
def test_a_word_is_completed(complete, line, expected, tmp_path):
    assert set(complete(line)) == expected
    assert list(tmp_path.iterdir()) == []


def test_every_command_is_completed():
    [line] = [line for line in INSTALLATION.splitlines() if line.startswith("complete ")]
    names = subprocess.run(["bash", "-c", f"echo {line}"], capture_output=True, text=True, check=True).stdout.split()
    assert {"fvit-train", *(name for name in names if name.startswith("fvit-"))} == set(PROGRAMS)


def test_a_file_is_completed_as_a_value(complete, tmp_path):
    (tmp_path / "best.ckpt").write_text("")
    assert complete("fvit-eval ckpt_path=./be") == ["ckpt_path=./best.ckpt"]
