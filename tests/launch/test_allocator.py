"""Freed memory is reused without page faults."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from fvit.launch.allocator import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no glibc")
def step():
    tensors = [torch.ones(10 * 2**20) for _ in range(2)]  # 40 MiB each
for _ in range(20):  # the heap has room for both, aligned, after three to eight steps
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*arguments):
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    if "no glibc" in done.stderr:
        pytest.skip("this C library is not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_kept_memory_causes_no_page_faults():
    # Ten steps of 80 MiB each, in pages of 4 KiB, or of 2 MiB with transparent huge pages.
    assert faults("keep") < faults("default") / 4
