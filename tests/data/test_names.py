from fvit.data.names import readable


def test_outputs_without_a_name_are_numbered():
    assert readable(["cat", "dog"], 2) == ["cat", "dog"]
    assert readable(["cat", "dog"], 4) == ["cat", "dog", "class 2", "class 3"]
    assert readable(None, 2) == ["class 0", "class 1"]


def test_synsets_are_put_into_words():
    assert readable(["n01440764", "n99999999"], 2) == ["n01440764 tench", "n99999999"]
    assert readable(["n01440764", "cat"], 2) == ["n01440764", "cat"]
