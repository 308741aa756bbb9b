import pytest

from fvit.launch import progress
from fvit.launch.console import console


@pytest.mark.parametrize(("speed", "text"), [(1234.5, "1,234"), (10, "10"), (0.256, "0.26"), (3, "3")])
def test_a_low_speed_is_shown_with_decimals(speed, text):
    assert progress._rate(speed) == text


def test_without_a_terminal_the_end_is_a_line(monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", iter([0.0, 4.0, 8.0]).__next__)
    with console.capture() as capture, progress.counting("figures", 2, 0) as advance:
        advance(1)
        advance(1)
    assert capture.get() == "2 of 2 figures  0.25 figures/s  ETA 0 s\n"
