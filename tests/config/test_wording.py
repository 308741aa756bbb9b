from fvit.config.wording import count


def test_one_is_singular():
    assert [count(number, "epoch") for number in (0, 1, 2000)] == ["0 epochs", "1 epoch", "2,000 epochs"]
    assert [count(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]
