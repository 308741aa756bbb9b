"""Rows as `measure` fills them in, without measuring."""

from fvit.cost.measure import Candidate, Row
from fvit.cost.timing import Timing
from fvit.cost.workload import Conditions

CONFIG = dict(candidates=["model=vit_tiny"], batch=4, baseline="softmax", match=None, to=None)
TOKENS = {224: 197, 384: 577, 1024: 4097}
MACHINE = dict(device="cpu", name="Abacus", threads=2, cpus=4, torch="2.0")


def make_row(attention="softmax", res=224, seconds=0.01, model="vit_tiny", timed=("latency_ms", "train_ms"), **values):
    """Seven runs of about `seconds`, whose 95 % interval is ± 3 %; a training step takes twice as long."""
    conditions = {key: values.pop(key) for key in ("precision", "compiled") if key in values}
    row = Row(Candidate(model, attention, Conditions(res, **conditions), lambda: None), tokens=TOKENS.get(res))
    for factor, name in enumerate(timed, 1):
        row.time(name, Timing(tuple(factor * seconds * (1 + 0.01 * (i - 3)) for i in range(7))))
    row.values |= {"params": 5.7e6, "macs": 1.26e9, "macs_paper": 1.08e9, "saved_mib": 100.0} | values
    return row


def failed_row(attention="sigmoid", res=224, status="out of memory"):
    row = make_row(attention, res)
    row.status, row.values, row.runs = status, {}, {}
    return row


def rows_over_sizes(attention, seconds_of, **options):
    """A row per image size; `seconds_of` maps tokens to seconds."""
    return [make_row(attention, res, seconds_of(n), saved_mib=n / 2, **options) for res, n in TOKENS.items()]
