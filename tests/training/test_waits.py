"""No step that is not logged makes the host wait for its device."""

import pytest

from fvit.launch.console import console
from tests.training.fitting import MODEL, fit
from tests.training.waiting import emulate

RUN = (
    *(*MODEL, "data=fake", "data.num_images=128", "data.image_size=32", "global_batch_size=16", "logger=csv"),
    *("trainer.max_epochs=1", "scheduler.warmup_epochs=0", "trainer.log_every_n_steps=4"),
    "callbacks.nonfinite.every_n_batches=3",
)
LOGGED = {4, 8}


def waits(device):
    """By step; in the first one, constants come to the device."""
    return {step: dict(lines) for step, lines in device.waits.items() if step != 1}


@pytest.mark.parametrize(
    "augment", [*(pytest.param(a, marks=pytest.mark.slow) for a in ("none", "light", "deit")), "deit3"]
)
def test_host_waits_in_logged_steps_only(compose_config, monkeypatch, augment):
    monkeypatch.setattr(console, "is_interactive", True)
    device = emulate(lambda probe: fit(compose_config(*RUN, f"augment={augment}"), probe))
    assert device.operators.keys() == set(range(1, 9))
    found = waits(device)
    assert found.keys() == LOGGED, found
    lines = " ".join(line for step in LOGGED for line in found[step])
    for place in ("metrics.py", "progress.py", "nonfinite.py", "to_item"):
        assert place in lines, "what waits in logged steps is noticed"


@pytest.mark.slow
def test_accumulation_waits_in_logged_steps_only(compose_config):
    device = emulate(lambda probe: fit(compose_config(*RUN, "micro_batch_size=8"), probe))
    assert waits(device).keys() == {2 * step for step in LOGGED}


@pytest.mark.slow
def test_average_waits_in_logged_steps_only(compose_config):
    device = emulate(lambda probe: fit(compose_config(*RUN, "callbacks=[default,ema]"), probe))
    found = waits(device)
    assert found.keys() == LOGGED, found
    assert any("foreach_lerp" in operator for operator in device.operators[3]), "the average is on the device"


@pytest.mark.slow
@pytest.mark.parametrize("distillation", ["deit_hard", "features"])
def test_distillation_waits_in_logged_steps_only(compose_config, teacher_run, distillation):
    teacher = (f"distillation={distillation}", f"distillation.teacher.path={teacher_run}")
    device = emulate(lambda probe: fit(compose_config(*RUN, *teacher), probe))
    found = waits(device)
    assert found.keys() == LOGGED, found


def test_number_of_operators_does_not_depend_on_the_batch_size(compose_config):
    small, large = (
        emulate(
            lambda probe, size=size: fit(
                compose_config(*RUN, "augment=deit", f"global_batch_size={size}", "+trainer.limit_train_batches=3"),
                probe,
            )
        )
        for size in (8, 16)
    )
    assert small.operators[3] == large.operators[3]
