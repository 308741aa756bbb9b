"""A command's own process, played by a script of that name."""

import os
import subprocess
import sys

import pytest

BODY = """
import atexit, sys
from fvit.launch.program import own
class Slow:
    def __del__(self): print("torn down", flush=True)
slow = Slow()
atexit.register(lambda: print("exit function"))
with own("demo"):
    {}
"""


@pytest.fixture
def demo(tmp_path):
    """Runs the body of a command in a process of its own."""

    def start(body, name="fvit-demo", **options):
        (tmp_path / name).write_text(BODY.format(body))
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **options.pop("env", {})}
        return subprocess.Popen([sys.executable, tmp_path / name], env=environment, **(pipes | options))

    return start


@pytest.mark.parametrize(
    ("body", "code", "err"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(143)", 143, ""),
        ("sys.exit('no')", 1, "no"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
    ],
)
def test_process_ends_with_its_code_and_without_teardown(demo, body, code, err):
    process = demo(body)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "exit function\n")
    assert errors.strip().endswith(err)


def test_another_program_is_left_alone(demo):
    out, _ = demo("pass", name="notebook").communicate(timeout=60)
    assert out == "exit function\ntorn down\n"


def test_work_goes_on_when_nobody_reads(demo, tmp_path):
    """As with `| head -1`, on both streams."""
    body = (
        "print('first')\n    sys.stdin.readline()\n"
        "    for _ in range(9999): print('more', file=sys.stdout), print('more', file=sys.stderr)\n"
        f"    open({str(tmp_path / 'done')!r}, 'w')"
    )
    process = demo(body, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "first\n"
    process.stdout.close()
    process.stderr.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "done").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")
def test_work_goes_on_when_the_disk_is_full(demo, tmp_path):
    body = f"print('first'), print('more'), open({str(tmp_path / 'done')!r}, 'w')"
    with open("/dev/full", "w") as full:
        process = demo(body, stdout=full)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "the disk is full: what this command prints is lost from here on\n")
    assert (tmp_path / "done").exists()


def test_encoding_without_the_character_replaces_it(demo):
    process = demo("print('a → b × c')", env={"PYTHONIOENCODING": "latin-1"}, text=False)
    out, _ = process.communicate(timeout=60)
    assert out == "a ? b × c\nexit function\n".encode("latin-1")


def test_closed_streams_are_no_error(demo):
    process = demo("print('a'), print('b', file=sys.stderr)", preexec_fn=lambda: (os.close(1), os.close(2)))
    process.communicate(timeout=60)
    assert process.returncode == 0
