import json

import pytest

from tests.training.fitting import FAKE, fit


@pytest.mark.parametrize("batches", [pytest.param(1, marks=pytest.mark.slow), 16])  # 1: shorter than the recording
@pytest.mark.slow
def test_trace_and_table_of_a_tiny_run(compose_config, tmp_path, capsys, batches):
    fit(compose_config(*FAKE, "debug=profiler", "global_batch_size=4", f"+trainer.limit_train_batches={batches}"))
    folder = tmp_path / "run"
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    names = {event["name"] for event in events}
    assert any("fvit.attention" in name and name.endswith("model.blocks.1.attn") for name in names)
    assert "aten::addmm" in names
    steps = [event for event in events if event["name"].startswith("ProfilerStep#") and event["ph"] == "X"]
    assert len({event["name"] for event in steps}) == (3 if batches == 16 else 0)
    table = (folder / "operators.txt").read_text()
    assert "model.blocks.1.attn" in table
    own = [
        _milliseconds(row.split()[-5]) for row in table.splitlines() if row.split()[-1:] and row.split()[-1].isdigit()
    ]
    assert len(own) > 20
    assert own == sorted(own, reverse=True)
    printed = capsys.readouterr().out
    for word in (str(folder / "trace.json"), "https://ui.perfetto.dev", str(folder / "operators.txt")):
        assert word in printed


def _milliseconds(text):
    number, unit = text.rstrip("mus"), text.lstrip("0123456789.")
    return float(number) * {"s": 1000.0, "ms": 1.0, "us": 0.001}[unit]
