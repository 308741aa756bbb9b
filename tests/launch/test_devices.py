import pytest

from fvit.launch import devices


@pytest.mark.parametrize(("cores", "most"), [(1, 4), (2, 4), (16, 16)])
def test_processes_on_a_cpu_are_no_more_than_its_cores_or_a_few(monkeypatch, cores, most):
    monkeypatch.setattr(devices, "usable_cores", lambda: cores)
    devices.check_devices({"accelerator": "cpu", "devices": most})
    with pytest.raises(ValueError, match=rf"trainer\.devices={most + 1} .* on {cores} CPU cores?; take at most {most}"):
        devices.check_devices({"accelerator": "cpu", "devices": most + 1})


def test_an_evaluation_starts_no_more_either(main):
    done = main("eval", "ckpt_path=x", "hardware=ddp_cpu", "trainer.devices=700")
    assert done.returncode == 1
    assert "error: trainer.devices=700 would start as many processes" in done.stderr
