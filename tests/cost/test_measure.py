from dataclasses import replace

import pytest
import torch
from torch import nn

from fvit.cost import count
from fvit.cost import measure as measuring
from fvit.cost.measure import WHAT, Built, Candidate, Row, Settings, measure
from fvit.cost.subject import Conditions, Subject
from fvit.cost.timing import Timing
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
    """Fails after so many runs."""

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


def test_every_figure_is_found():
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


@pytest.mark.parametrize("what", WHAT)
def test_what_is_not_asked_for_is_not_measured(what):
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


def test_more_is_kept_for_a_backward_pass_of_more_images():
    saved = [measured([candidate()], Settings(["memory"], batch=batch))[0].values["saved_mib"] for batch in (2, 4)]
    assert saved[1] == pytest.approx(2 * saved[0], rel=0.05)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("images of 32 px do not fit\nfurther lines"), "images of 32 px do not fit"),
        (RuntimeError("CUDA error"), "CUDA error"),
        (RuntimeError(), "RuntimeError"),
        (AssertionError("Input height (32) doesn't match model (224)."), "AssertionError: Input height"),
        (KeyError("head"), "KeyError: 'head'"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
    ],
)
@pytest.mark.parametrize("runs", [0, 2, 6, 21])
def test_one_that_fails_says_so_in_its_row_and_the_others_are_measured(error, status, runs):
    """It may fail in its first run, among the timed ones, or in training."""
    found = measured([candidate(), failing(error, runs), candidate("additive")], QUICK)
    assert [row.status == "ok" for row in found] == [True, False, True]
    assert found[1].status.startswith(status)
    assert set(found[0].values) == set(found[2].values)
    assert {"params", "macs"} <= set(found[1].values), "what was found before stays"
    assert len(found[1].values) < len(found[0].values)


def test_who_interrupts_has_what_was_measured_before():
    rows = [Row(one) for one in (candidate(size=16), candidate(), failing(KeyboardInterrupt(), 2), candidate(size=64))]
    with pytest.raises(KeyboardInterrupt):
        measure(rows, QUICK)
    assert [row.status for row in rows] == ["ok", "interrupted", "interrupted", "interrupted"]
    assert "train_ms" in rows[0].values
    assert {"macs"} < set(rows[1].values) < set(rows[0].values)
    assert rows[3].values == {}


class Fixed(nn.Module):
    """Multiplies by a MiB of numbers that it does not learn, and needs them on the way back."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 1))
        self.register_buffer("features", torch.ones(1, 2**18))

    def forward(self, images):
        return images.mean((2, 3)) @ self.weight @ self.features


def test_what_a_model_holds_without_learning_it_is_not_kept_for_its_backward_pass():
    [row] = measured([candidate(make=lambda: Built(Fixed(), {}))], Settings(["memory"], batch=1))
    assert 1 < row.values["saved_mib"] < 2, "the logits alone, which logsumexp keeps"


def test_one_that_cannot_be_built_says_so():
    def refuse():
        raise ValueError("no such model")

    found = measured([candidate(make=refuse)], QUICK)
    assert (found[0].status, found[0].values, found[0].tokens) == ("no such model", {}, None)


def test_memory_that_is_not_there_is_a_status_and_not_the_end(monkeypatch):
    from fvit.cost import memory

    if memory._available() is None:
        pytest.skip("this system does not tell how much memory there is")
    monkeypatch.setattr(memory, "_available", lambda: 256 * 2**20)

    class Greedy(Fails):
        def forward(self, images):
            if images.device.type != "meta":
                torch.ones(2**30 // 4).sum()
            return super().forward(images)

    found = measured([candidate(), candidate(make=lambda: Built(Greedy(None, 99), {}))], QUICK)
    assert [row.status for row in found] == ["ok", "out of memory"]


def test_the_best_batch_is_one_that_fits(monkeypatch):
    class Narrow(Fails):
        def forward(self, images):
            if len(images) > 4:
                raise torch.OutOfMemoryError("too many")
            return super().forward(images)

    monkeypatch.setattr(measuring, "best_batch", lambda time_of, sizes, longest: _try_all(time_of, sizes))

    def _try_all(time_of, sizes):
        from fvit.cost.timing import best_batch

        return best_batch(lambda size: time_of(size) and 1.0, sizes)  # each batch takes as long: more is better

    [row] = measured([candidate(make=lambda: Built(Narrow(None, 10**6), {}))], Settings(["throughput"], 3, 1.0))
    assert (row.status, row.values["batch"]) == ("ok", 4)


@pytest.mark.parametrize("what", [["throughput"], ["throughput", "latency"]])
def test_the_best_batch_is_one_that_takes_no_longer_than_a_figure(monkeypatch, what):
    """Whatever was measured before: a large batch takes hours, or all memory."""
    tried = []

    def timings(steps, *args, **kwargs):
        for step in steps.values():
            step()
        return {name: Timing((tried[-1] ** 0.9,) * 3) for name in steps}  # seconds

    def forward(subject, batch):
        return lambda: tried.append(batch)

    monkeypatch.setattr(measuring, "time_in_turns", timings)
    monkeypatch.setattr(Subject, "forward", forward)
    [row] = measured([candidate()], Settings(what, seconds=10.0))
    assert (row.status, row.values["batch"]) == ("ok", 8)
    assert max(tried) == 8


def test_those_of_one_size_and_manner_take_turns(monkeypatch):
    groups = []

    def noted(steps, *args):
        groups.append(len(steps))
        return real(steps, *args)

    real = measuring.time_in_turns
    monkeypatch.setattr(measuring, "time_in_turns", noted)
    candidates = [candidate(size=size, precision=p) for size in (32, 16) for p in ("float32", "bf16") for _ in range(3)]
    rows = measured(candidates, Settings(["latency"], 3, 0.01))
    assert groups == [3] * 4
    assert [row.candidate for row in rows] == candidates, "in their order"


def test_progress_counts_the_figures():
    told = []
    measured([candidate(), candidate(size=16), failing(ValueError("no"))], Settings(["params", "latency"]), told.append)
    assert sum(told) == 3 * 2


def test_progress_moves_while_many_take_turns(monkeypatch):
    """As many figures are told as the share of the rounds that is done."""
    told = []
    rounds = []

    def noted(steps, runs, seconds, wait, tell):
        def one_more(share):
            tell(share)
            rounds.append(sum(told))

        return real(steps, runs, 99.0, wait, one_more)

    real = measuring.time_in_turns
    monkeypatch.setattr(measuring, "time_in_turns", noted)
    measured([candidate() for _ in range(4)], Settings(["latency"], runs=8), told.append)
    assert rounds == [0, 1, 1, 2, 2, 3, 3, 4]
    assert sum(told) == 4


class Linear(nn.Module):
    """A class whose forward pass is one piece of code, whatever the width."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(3, width)

    def forward(self, images):
        return self.layer(images.mean((2, 3)))


def test_compiled_is_never_eager(monkeypatch):
    """All of these share the code of one forward pass, which torch compiles 8 times unless it is told otherwise."""
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
        candidate(size=size, make=lambda width=width: Built(Linear(width), {}), compiled=True)
        for size in (8, 16)
        for width in widths
    ]
    rows = measured(candidates, Settings(["latency", "memory", "train"], 3, 99.0, 2))
    assert [row.status for row in rows] == ["ok"] * len(rows)
    runs = {width: ran.count(width) for width in widths}
    # At each size 4 of latency and of training, warm-up included; and of memory 1 that is watched, and 2 times 2, or 2
    # times 1 where the system tells no peak.
    assert set(runs.values()) in ({2 * (4 + 4 + 5)}, {2 * (4 + 4 + 3)}), runs


def test_a_model_without_tokens_has_none():
    [row] = measured([candidate(make=lambda: Built(build("resnet18", 32, 10), {}))], Settings(["params"]))
    assert (row.status, row.tokens) == ("ok", None)


def test_bf16_is_autocast():
    dtypes = []

    class Notes(Fails):
        def forward(self, images):
            out = super().forward(images)
            dtypes.append(out.dtype)
            return out

    model = Notes(None, 99)
    Subject(model, Conditions(32, "bf16")).forward(1)()
    Subject(model, Conditions(32)).forward(1)()
    Subject(model, Conditions(32, "bf16")).train(1)()
    assert dtypes == [torch.bfloat16, torch.float32, torch.bfloat16]
    assert model.weight.dtype == torch.float32


def test_a_training_step_leaves_weights_and_no_gradients():
    model = vit()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    subject = Subject(model, Conditions(32))
    for step in (subject.train(2), subject.backward(2)):
        step()
        assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_training_step_trains_and_a_forward_step_does_not():
    modes = []
    model = vit()
    model.register_forward_pre_hook(
        lambda module, _: modes.append((module.training, torch.is_inference_mode_enabled()))
    )
    subject = Subject(model, Conditions(32))
    for step in (subject.forward(1), subject.train(1), subject.loss(1), subject.forward(1)):
        step()
    assert modes == [(False, True), (True, False), (True, False), (False, True)]


@pytest.mark.slow
def test_a_compiled_model_is_compiled_and_counted_all_the_same():
    eager, compiled = measured([candidate(), candidate(compiled=True)], QUICK)
    assert compiled.status == "ok"
    assert compiled.values["macs"] == eager.values["macs"]
    assert compiled.candidate.label == "vit softmax 32 px compiled"
    model = vit()
    Subject(model, Conditions(32, compiled=True))
    assert model._compiled_call_impl is not None


def test_labels_tell_what_is_not_usual():
    plain, other = candidate(), candidate(precision="bf16", compiled=True)
    assert (plain.label, plain.name) == ("vit softmax 32 px", "vit softmax")
    assert (other.label, other.name) == ("vit softmax 32 px bf16 compiled", "vit softmax bf16 compiled")
    assert Row(plain).alive
