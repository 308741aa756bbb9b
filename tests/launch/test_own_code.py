import importlib
import json
import os
import subprocess
import sys

import pytest

from fvit.launch import own_code

NAMES_IT = {"model": {"attention": {"name": "lab.mine:Squared"}}}


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def _nothing_else(monkeypatch):
    """What other tests imported is hidden."""
    for name in own_code.own_modules({}):
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A git repository on PYTHONPATH, with a package that is changed but not committed, and its helper."""
    folder = tmp_path / "project"
    (folder / "lab").mkdir(parents=True)
    (folder / "lab" / "__init__.py").touch()
    (folder / "lab" / "mine.py").write_text("import helper\nbefore = 1\n")
    (folder / "helper.py").write_text("tool = 1\n")
    git(tmp_path, "init", "-q", folder)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    (folder / "lab" / "mine.py").write_text("import helper\nafter = 2\n")
    monkeypatch.syspath_prepend(folder)
    importlib.import_module("lab.mine")
    yield folder
    for name in ("lab", "lab.mine", "helper"):
        sys.modules.pop(name)


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def files(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_modules_commit_and_diff_are_kept(project, run_dir):
    noted = own_code.keep(run_dir, {})["own_code"]
    kept = files(run_dir / "code")
    diff = kept.pop("1-project.diff")
    assert "-before = 1\n+after = 2\n" in diff
    mine = "import helper\nafter = 2\n"
    assert kept == {"lab/__init__.py": "", "lab/mine.py": mine, "helper.py": "tool = 1\n"}
    commit = git(project, "rev-parse", "HEAD")
    assert noted["repositories"] == [{"folder": str(project), "commit": commit, "diff": "1-project.diff"}]
    assert noted["modules"]["lab.mine"] == str(project / "lab" / "mine.py")
    assert json.dumps(noted)


def test_without_a_repository_the_modules_are_kept(project, run_dir):
    (project / ".git").rename(project / "git")
    assert own_code.keep(run_dir, {})["own_code"]["repositories"] == []
    assert "lab/mine.py" in files(run_dir / "code")


@pytest.mark.parametrize(
    "config",
    [
        NAMES_IT,
        {"model": {"attention": {"name": "mixed", "layers": ["lab.mine:Squared*2", "softmax"]}}},
        {"model": {"attention": "lab.mine:Squared"}},
    ],
)
def test_a_mechanism_is_ones_own_even_if_installed(project, run_dir, monkeypatch, config):
    monkeypatch.setattr(own_code, "_INSTALLED", (*own_code._INSTALLED, f"{project}{os.sep}"))
    assert own_code.own_modules({"model": {"name": "hf-hub:timm/vit", "attention": {"name": "torch"}}}) == {}
    assert set(own_code.own_modules(config)) == {"lab", "lab.mine"}, "not what it uses"


def test_installed_modules_and_fvits_own_are_not_kept():
    assert own_code.own_modules({"callbacks": {"x": {"_target_": "lightning.pytorch.callbacks.Timer"}}}) == {}


def test_a_new_module_of_fvits_own_checkout_is_kept(project, run_dir, monkeypatch):
    """Where a mechanism is before it is contributed."""
    git(project, "rm", "-q", "--cached", "lab/mine.py")
    git(project, "commit", "-qm", "two")
    monkeypatch.setattr(own_code, "_PACKAGE", project / "lab")
    noted = own_code.keep(run_dir, {})["own_code"]
    assert set(noted["modules"]) == {"helper", "lab.mine"}
    assert noted["repositories"][0]["diff"] is None


def test_a_resumed_run_keeps_the_code_of_both_starts(project, run_dir):
    for _ in range(2):
        assert own_code.keep(run_dir, {})["own_code"]["folder"] == "code"
    own_code._content.cache_clear()  # as in another process
    (project / "helper.py").write_text("tool = 2\n")
    assert own_code.keep(run_dir, {})["own_code"]["folder"] == "code-2"
    assert own_code.newest(run_dir) == run_dir / "code-2"
    assert files(run_dir / "code")["helper.py"] == "tool = 1\n"
    assert files(run_dir / "code-2")["helper.py"] == "tool = 2\n"


def test_a_file_that_changes_later_is_kept_as_it_was_imported(project, tmp_path):
    for job in ("0", "1"):
        (tmp_path / job).mkdir()
        own_code.keep(tmp_path / job, {})
        assert files(tmp_path / job / "code")["helper.py"] == "tool = 1\n"
        (project / "helper.py").write_text("tool = 2\n")


def test_a_copy_can_be_imported(project, run_dir, tmp_path):
    own_code.keep(run_dir, {})
    environment = {**os.environ, "PYTHONPATH": str(run_dir / "code")}
    command = [sys.executable, "-c", "from lab.mine import after; print(after)"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
