import json

import pytest

from fvit.reports.runs.costs import read_benchmarks
from tests.reports.runs.folders import write_benchmark


@pytest.fixture
def benchmark_of():
    """What `fvit-bench` left in a folder, of two candidates at two sizes of images, or at one."""

    def make(folder, sizes=2):
        write_benchmark(folder)
        path = folder / "bench.json"
        content = json.loads(path.read_text())
        kept = sorted({row["res"] for row in content["rows"]})[:sizes]
        content["rows"] = [row for row in content["rows"] if row["res"] in kept]
        path.write_text(json.dumps(content))
        [benchmark] = read_benchmarks([path])
        return benchmark

    return make
