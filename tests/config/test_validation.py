import re
from typing import Literal

import pytest

from fvit.config.errors import ConfigError
from fvit.config.validation import check_arguments


def function(width: int, rate: float | None = None, kind: Literal["a", "b"] = "a", *, on: bool = True, other=None):
    raise AssertionError("it is not called")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widht": 3}, "unknown key group.widht=3, did you mean width?; known: width, rate, kind, on"),
        ({"zzz": None}, "unknown key group.zzz=None; known: width, rate, kind, on"),
        ({"other": 3}, "group.other=3 cannot be set: fvit sets it"),
        ({"width": "abc"}, "group.width='abc': input should be a valid integer"),
        ({"width": None}, "group.width=None: input should be a valid integer"),
        ({"rate": "fast"}, "group.rate='fast': input should be a valid number"),
        ({"kind": "c"}, "group.kind='c': input should be 'a' or 'b'"),
        ({"on": "maybe"}, "group.on='maybe': input should be a valid boolean"),
        ({"on": "maybe", "kind": "c"}, "group.kind='c': input should be 'a' or 'b'\ngroup.on='maybe'"),
    ],
)
def test_wrong_options_are_named_with_their_path(options, message):
    with pytest.raises(ConfigError) as caught:
        check_arguments(function, options, "group", reserved=["other"])
    assert all(line in str(caught.value) for line in message.splitlines())


@pytest.mark.parametrize("options", [{"width": 3}, {"rate": 1}, {"rate": None, "on": False}, {"other": object()}])
def test_right_options_pass(options):
    check_arguments(function, options, "group")


def test_hydras_keys_pass():
    check_arguments(function, {"_target_": "function", "_partial_": True}, "group")


def test_a_class_is_its_constructor():
    class Parent:
        def __init__(self, size: int):
            pass

    class Child(Parent):
        pass

    check_arguments(Child, {"size": 3}, "group")
    with pytest.raises(ConfigError, match=r"group.size='big'"):
        check_arguments(Child, {"size": "big"}, "group")


def test_names_pass_where_further_arguments_do():
    def further(size: int = 1, **options):
        raise AssertionError("it is not called")

    check_arguments(further, {"anything": 3}, "group")
    with pytest.raises(ConfigError, match=r"group\.anything=3 cannot be set"):
        check_arguments(further, {"anything": 3}, "group", reserved=["anything"])
    with pytest.raises(ConfigError, match=r"group.size='big'"):
        check_arguments(further, {"size": "big", "anything": 3}, "group")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+model.attention.lgits=full"], r"no option 'lgits', did you mean logits\?; .*: dim, num_heads"),
        (["model.attention.proj=abc"], r"proj='abc' must be bool"),
        (["+data.rot=DIR", "data=fake"], r"data\.rot.*: num_images"),
        pytest.param(
            ["data=fake", "data.num_images=abc"],
            r"data\.num_images=abc: input should be a valid integer",
            marks=pytest.mark.slow,
        ),
        (["+trainer.max_epoch=3"], r"unknown key trainer\.max_epoch=3, did you mean max_epochs"),
        (["+trainer.logger=false"], r"trainer\.logger=False cannot be set: fvit sets it"),
        pytest.param(
            ["+logger.csv.dir=x"],
            r"unknown key logger\.csv\.dir='x', did you mean save_dir\?; known: save_dir, name",
            marks=pytest.mark.slow,
        ),
        (["logger=wandb", "+logger.wandb.notse=x"], r"unknown key logger\.wandb\.notse='x', did you mean notes"),
        (["callbacks.metrics.data_wait_limit=abc"], r"callbacks\.metrics\.data_wait_limit='abc': input should be a"),
        (["attention=softmax", "model.blocks=11-4"], r"blocks='11-4': 11-4 runs backwards; write 4-11"),
        pytest.param(["model.keep=[qvk]"], r"keep has no 'qvk', did you mean qkv", marks=pytest.mark.slow),
        (["data.img_size=30"], r"30 px .* data\.img_size=32"),
        (["model.match=macs", "attention=native"], r"model\.match=macs has no effect with attention=native"),
    ],
)
def test_what_a_constructor_refuses_is_one_message_and_leaves_no_run_directory(main, tmp_path, overrides, message):
    done = main("train", "debug=fdr", *overrides)
    assert done.returncode == 1
    assert re.search(message, done.stderr)
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert list(tmp_path.glob("logs/*/*/*")) == []
