"""Measuring several candidates: figures, failures, turns, progress."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fvit.cost import count
from fvit.cost import measure as measuring
from fvit.cost.measure import WHAT, Built, Candidate, Row, Settings, measure
from fvit.cost.timing import Timing
from fvit.cost.workload import DTYPES, Conditions, Workload
from fvit.models import build

QUICK = Settings(runs=3, seconds=0.01, batch=2)
SHAPE = dict(patch_size=8, embed_dim=24, depth=1, num_heads=3)


def vit(attention="softmax", size=32):
    return build("vit_tiny_patch16_224", size, 10, attention=attention, **SHAPE)


def candidate(attention="softmax", size=32, make=None, **conditions):
    return Candidate(
        "vit", attention, Conditions(size, **conditions), make or (lambda: Built(vit(attention, size), {"extra": 1.0}))
    )


def measured(candidates, *options):
    rows = [Row(candidate) for candidate in candidates]
    measure(rows, *options)
    return rows


class Fails(nn.Module):
    """Raises an error after a number of runs."""

    def __init__(self, error, runs=0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10, 3))
        self.error, self.runs = error, runs

    def forward(self, images):
        if images.device.type != "meta":
            self.runs -= 1
            if self.runs < 0:
                raise self.error
        return images.mean((2, 3)) @ self.weight.T


def failing(error, runs=0):
    return candidate(make=lambda: Built(Fails(error, runs), {}))


def test_all_figures_are_measured():
    [row] = measured([candidate()], replace(QUICK, runs=6, seconds=99.0))
    assert row.status == "ok"
    assert row.tokens == 16 + 1
    cost = count(vit(), 32)
    assert (row.values["params"], row.values["macs"], row.values["macs_paper"]) == (
        cost.params,
        cost.macs,
        cost.macs_paper,
    )
    for name in ("latency_ms", "batch_ms", "train_ms"):
        assert 0 < row.values[f"{name}_low"] <= row.values[name] <= row.values[f"{name}_high"]
        assert len(row.runs[name].seconds) == row.values[f"{name}_runs"] == 6
    assert row.values["images_per_s"] == pytest.approx(1e3 * row.values["batch"] / row.values["batch_ms"])
    assert row.values["images_per_s_low"] <= row.values["images_per_s"] <= row.values["images_per_s_high"]
    assert row.values["saved_mib"] > 0
    assert row.values["extra"] == 1


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_mfu_is_of_the_training_step_and_a_product_in_the_same_precision(monkeypatch, precision):
    asked = []

    def rate(device, dtype):
        asked.append(dtype)
        return 1e9

    monkeypatch.setattr(measuring, "matmul_rate", rate)
    rows = measured(
        [candidate(precision=precision), failing(ValueError("no"))], Settings(["macs", "train"], 3, 0.01, 2)
    )
    assert asked == [DTYPES[precision]]
    [row, failed] = rows
    flops = 6 * row.values["macs"] * 2 / (1e-3 * row.values["train_ms"])
    assert row.values["mfu"] == pytest.approx(flops / 1e9)
    assert row.values["matmul_tflops"] == 1e-3
    assert "mfu" not in failed.values


@pytest.mark.parametrize("what", WHAT)
def test_only_requested_figures_are_measured(what):
    ends = ("", "_low", "_high")
    timed = (*ends, "_runs")
    keys = {
        "params": {"params"},
        "macs": {"macs", "macs_paper"},
        "latency": {"latency_ms" + end for end in timed},
        "throughput": {"batch"} | {"batch_ms" + end for end in timed} | {"images_per_s" + end for end in ends},
        "memory": {"saved_mib", "peak_mib", "train_peak_mib"},
        "train": {"train_ms" + end for end in timed},
    }
    [row] = measured([candidate()], Settings([what], runs=6, seconds=99.0, batch=2))
    assert set(row.values) - {"extra"} == keys[what] - ({"peak_mib", "train_peak_mib"} - set(row.values))


def test_activations_grow_with_the_batch():
    saved = [measured([candidate()], Settings(["memory"], batch=batch))[0].values["saved_mib"] for batch in (2, 4)]
    assert saved[1] == pytest.approx(2 * saved[0], rel=0.05)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("images of 32 px do not fit\nfurther lines"), "images of 32 px do not fit"),
        pytest.param(RuntimeError("CUDA error"), "CUDA error", marks=pytest.mark.slow),
        pytest.param(KeyError("head"), "KeyError: 'head'", marks=pytest.mark.slow),
        (RuntimeError(), "RuntimeError"),
        (AssertionError("Input height (32) doesn't match model (224)."), "AssertionError: Input height"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
    ],
)
@pytest.mark.parametrize("runs", [*(pytest.param(runs, marks=pytest.mark.slow) for runs in (0, 6)), 21])
def test_failure_is_the_status_of_its_row_and_the_others_are_measured(error, status, runs):
    """In the first run, in timed runs, or in training."""
    found = measured([candidate(), failing(error, runs), candidate("additive")], QUICK)
    assert [row.status == "ok" for row in found] == [True, False, True]
    assert found[1].status.startswith(status)
    assert set(found[0].values) == set(found[2].values)
    assert {"params", "macs"} <= set(found[1].values), "earlier figures stay"
    assert len(found[1].values) < len(found[0].values)


def test_interrupt_keeps_earlier_figures():
    rows = [Row(one) for one in (candidate(size=16), candidate(), failing(KeyboardInterrupt(), 2), candidate(size=64))]
    with pytest.raises(KeyboardInterrupt):
        measure(rows, QUICK)
    assert [row.status for row in rows] == ["ok", "interrupted", "interrupted", "interrupted"]
    assert "train_ms" in rows[0].values
    assert {"macs"} < set(rows[1].values) < set(rows[0].values)
    assert rows[3].values == {}


class Fixed(nn.Module):
    """Multiplies by a buffer of 1 MiB, which its backward pass needs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 1))
        self.register_buffer("features", torch.ones(1, 2**18))

    def forward(self, images):
        return images.mean((2, 3)) @ self.weight @ self.features


def test_buffers_are_not_activations():
    [row] = measured([candidate(make=lambda: Built(Fixed(), {}))], Settings(["memory"], batch=1))
    assert 1 < row.values["saved_mib"] < 2, "only the logits, which logsumexp saves"


def test_candidate_that_cannot_be_built_has_the_error_as_status():
    def refuse():
        raise ValueError("no such model")

    found = measured([candidate(make=refuse)], QUICK)
    assert (found[0].status, found[0].values, found[0].tokens) == ("no such model", {}, None)


def test_out_of_memory_is_a_status_and_not_the_end(monkeypatch):
    from fvit.cost import memory

    if memory._available() is None:
        pytest.skip("available memory is unknown on this system")
    monkeypatch.setattr(memory, "_available", lambda: 256 * 2**20)

    class Greedy(Fails):
        def forward(self, images):
            if images.device.type != "meta":
                torch.ones(2**30 // 4).sum()
            return super().forward(images)

    found = measured([candidate(), candidate(make=lambda: Built(Greedy(None, 99), {}))], QUICK)
    assert [row.status for row in found] == ["ok", "out of memory"]


def test_best_batch_fits_into_memory(monkeypatch):
    class Narrow(Fails):
        def forward(self, images):
            if len(images) > 4:
                raise torch.OutOfMemoryError("too many")
            return super().forward(images)

    monkeypatch.setattr(measuring, "best_batch", lambda time_of, sizes, longest: _try_all(time_of, sizes))

    def _try_all(time_of, sizes):
        from fvit.cost.timing import best_batch

        return best_batch(lambda size: time_of(size) and 1.0, sizes)  # all batches take the same time: larger is better

    [row] = measured([candidate(make=lambda: Built(Narrow(None, 10**6), {}))], Settings(["throughput"], 3, 1.0))
    assert (row.status, row.values["batch"]) == ("ok", 4)


@pytest.mark.parametrize("what", [["throughput"], ["throughput", "latency"]])
def test_best_batch_takes_no_longer_than_one_figure_may(monkeypatch, what):
    tried = []

    def timings(steps, *args, **kwargs):
        for step in steps.values():
            step()
        return {name: Timing((tried[-1] ** 0.9,) * 3) for name in steps}  # seconds

    def forward(workload, batch):
        return lambda: tried.append(batch)

    monkeypatch.setattr(measuring, "time_in_turns", timings)
    monkeypatch.setattr(Workload, "forward", forward)
    [row] = measured([candidate()], Settings(what, seconds=10.0))
    assert (row.status, row.values["batch"]) == ("ok", 8)
    assert max(tried) == 8


def test_candidates_with_the_same_conditions_take_turns(monkeypatch):
    groups = []

    def noted(steps, *args):
        groups.append(len(steps))
        return real(steps, *args)

    real = measuring.time_in_turns
    monkeypatch.setattr(measuring, "time_in_turns", noted)
    candidates = [candidate(size=size, precision=p) for size in (32, 16) for p in ("float32", "bf16") for _ in range(3)]
    rows = measured(candidates, Settings(["latency"], 3, 0.01))
    assert groups == [3] * 4
    assert [row.candidate for row in rows] == candidates, "in the given order"


def test_progress_counts_figures():
    reported = []
    measured(
        [candidate(), candidate(size=16), failing(ValueError("no"))], Settings(["params", "latency"]), reported.append
    )
    assert sum(reported) == 3 * 2


def test_progress_is_proportional_to_the_rounds(monkeypatch):
    reported = []
    rounds = []

    def noted(steps, runs, seconds, device, queued, progress):
        def one_more(share):
            progress(share)
            rounds.append(sum(reported))

        return real(steps, runs, 99.0, device, queued, one_more)

    real = measuring.time_in_turns
    monkeypatch.setattr(measuring, "time_in_turns", noted)
    measured([candidate() for _ in range(4)], Settings(["latency"], runs=8), reported.append)
    assert rounds == [0, 1, 1, 2, 2, 3, 3, 4]
    assert sum(reported) == 4


class AnyWidth(nn.Module):
    """Models of different widths that share the code of their forward pass."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(3, width)

    def forward(self, images):
        return self.layer(images.mean((2, 3)))


@pytest.mark.slow
def test_compiled_models_never_run_eagerly(monkeypatch):
    """By default torch compiles one piece of code at most 8 times, and these models share theirs."""
    ran = []
    compiled = nn.Module.compile

    def counted(module, **options):
        def backend(graph, inputs):
            def run(*inputs):
                ran.append(module.layer.out_features)
                return graph(*inputs)

            return run

        compiled(module, **options, backend=backend)

    monkeypatch.setattr(nn.Module, "compile", counted)
    widths = range(2, 8)
    candidates = [
        candidate(size=size, make=lambda width=width: Built(AnyWidth(width), {}), compiled=True)
        for size in (8, 16)
        for width in widths
    ]
    rows = measured(candidates, Settings(["latency", "memory", "train"], 3, 99.0, 2))
    assert [row.status for row in rows] == ["ok"] * len(rows)
    runs = {width: ran.count(width) for width in widths}
    # Per size: 4 for latency and 4 for training, with warm-up; for memory 1 and 2 times 2, or 2 times 1 if peaks cannot
    # be measured.
    assert set(runs.values()) in ({2 * (4 + 4 + 5)}, {2 * (4 + 4 + 3)}), runs


def test_convolutional_model_has_no_number_of_tokens():
    [row] = measured([candidate(make=lambda: Built(build("resnet18", 32, 10), {}))], Settings(["params"]))
    assert (row.status, row.tokens) == ("ok", None)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_compiled_model_is_compiled_and_counted():
    eager, compiled = measured([candidate(), candidate(compiled=True)], QUICK)
    assert compiled.status == "ok"
    assert compiled.values["macs"] == eager.values["macs"]
    assert compiled.candidate.label == "vit softmax 32 px compiled"
    model = vit()
    Workload(model, Conditions(32, compiled=True))
    assert model._compiled_call_impl is not None


def test_labels_contain_unusual_conditions():
    plain, other = candidate(), candidate(precision="bf16", compiled=True)
    assert (plain.label, plain.name) == ("vit softmax 32 px", "vit softmax")
    assert (other.label, other.name) == ("vit softmax 32 px bf16 compiled", "vit softmax bf16 compiled")
    assert Row(plain).alive
