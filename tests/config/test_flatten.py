from fvit.config.flatten import flatten


def test_keys_are_joined_by_dots_and_keep_their_order():
    nested = {"seed": 1, "model": {"depth": 4, "attention": {"name": "additive"}}, 7: {"lr": None}}
    assert list(flatten(nested).items()) == [
        ("seed", 1),
        ("model.depth", 4),
        ("model.attention.name", "additive"),
        ("7.lr", None),
    ]


def test_lists_and_empty_mappings_are_values():
    assert flatten({"a": {"mean": [0.5, {"b": 1}], "none": {}}}) == {"a.mean": [0.5, {"b": 1}], "a.none": {}}


def test_a_prefix_stands_before_every_key():
    assert flatten({"a": {"b": 1}}, "environment.") == {"environment.a.b": 1}
