from pathlib import Path

import pytest

from fvit.launch.config_diff import compare

BEFORE = {
    "output_dir": "a",
    "title": "one",
    "ckpt_path": None,
    "model": {"depth": 4, "embed_dim": 96, "num_heads": 3, "init_from": "x", "attention": {"name": "additive"}},
    "data": {"img_size": 32, "root": "here", "mean": [0.5, 0.5, 0.5]},
    "optimizer": {"opt": "adamw", "lr": 1e-3},
    "logger": {"csv": {"save_dir": "a"}},
    "callbacks": {"last": {"dirpath": "a/checkpoints", "every_n_train_steps": None}},
    "trainer": {"max_epochs": 5},
}


def changed(**groups):
    after = {**BEFORE, **{key: value for key, value in groups.items() if not isinstance(value, dict)}}
    return after | {key: {**BEFORE[key], **value} for key, value in groups.items() if isinstance(value, dict)}


def test_paths_and_names_are_no_differences():
    moved = changed(
        output_dir="b",
        title="two",
        quiet=True,
        ckpt_path="a/checkpoints/last.ckpt",
        model={"init_from": None, "match": None, "attention": {"name": "additive", "conv": 0, "rotary": False}},
        data={"root": "there", "mean": [0.5, 0.5, 0.5], "resident": False},  # options that came later
        logger={"csv": {"save_dir": "b"}, "wandb": {}},
        callbacks={"last": {"dirpath": "b/checkpoints", "every_n_train_steps": None}},
    )
    assert compare(BEFORE, moved, Path("a")) == []


def test_a_difference_is_reported_with_both_values():
    after = changed(
        trainer={"max_epochs": 9}, callbacks={"last": {"dirpath": "a", "every_n_train_steps": 3}}, optimizer={"lr": 0.1}
    )
    assert compare(BEFORE, after, Path("a")) == [
        "optimizer.lr=0.1 (was 0.001)",
        "callbacks.last.every_n_train_steps=3 (was None)",
        "trainer.max_epochs=9 (was 5)",
    ]


@pytest.mark.parametrize(
    ("group", "change", "named"),
    [
        ("model", {"depth": 5}, "model.depth=5 (was 4)"),
        ("model", {"attention": {"name": "softmax"}}, "model.attention.name=softmax (was additive)"),
        ("model", {"attention": {"name": "additive", "heads": 2}}, "model.attention.heads=2 (was None)"),
        ("data", {"img_size": 64}, "data.img_size=64 (was 32)"),
        ("optimizer", {"opt": "lion"}, "optimizer.opt=lion (was adamw)"),
    ],
)
def test_another_model_is_refused(group, change, named):
    with pytest.raises(ValueError, match=r"start a new run from its weights: model\.init_from=a") as refused:
        compare(BEFORE, changed(trainer={"max_epochs": 9}, **{group: change}), Path("a"))
    assert f": {named}. Leave that out" in str(refused.value)


def test_a_new_run_may_have_images_of_another_size():
    after = changed(data={"img_size": 64})
    assert compare(BEFORE, after, Path("a"), in_place=False) == ["data.img_size=64 (was 32)"]
    with pytest.raises(ValueError, match=r"in its directory with images of another size: .*\(ckpt_path=a hydra"):
        compare(BEFORE, after, Path("a"))


def test_a_matched_width_is_no_difference():
    found = changed(model={"embed_dim": 120})
    assert compare(found, changed(model={"match": "macs"}), Path("a")) == []
