import json

import pytest

from fvit.reports.bench.charts import read_benchmark
from tests.reports.runs.folders import write_benchmark


@pytest.fixture
def benchmark_of():
    """Writes a benchmark of two candidates at one or two image sizes, and reads it."""

    def make(folder, sizes=2):
        write_benchmark(folder)
        path = folder / "bench.json"
        content = json.loads(path.read_text())
        kept = sorted({row["res"] for row in content["rows"]})[:sizes]
        content["rows"] = [row for row in content["rows"] if row["res"] in kept]
        path.write_text(json.dumps(content))
        return read_benchmark(path)

    return make
