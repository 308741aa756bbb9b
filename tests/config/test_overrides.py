import shlex
import subprocess

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from fvit.config.overrides import argument, parse, value_of
from fvit.config.paths import conf_dir

HARD = ["/my runs/é (1)", "a,b=[c]", "it's", 'say "x"', "50 $ off", "back\\", "a`b", "!", "", "${seed}", "\\${a}"]
HARD += [
    "null",
    "1e3",
    "007",
    "True",
    "a\nb",
    "\\'",
    "~x",
    "{a:b}",
    "[1]",
    "名 #1;rm",
    "a\\\n",
    "'",
    "x=y",
    "$(pwd)",
    "%s",
]


def test_plain_values_are_not_quoted_and_others_as_in_the_docs():
    assert argument("ckpt_path", "logs/train/runs/2026-01-02_03-04-05-ab12") == (
        "ckpt_path=logs/train/runs/2026-01-02_03-04-05-ab12"
    )
    assert argument("ckpt_path", "/my runs/1") == "\"ckpt_path='/my runs/1'\""


@given(st.text(st.sampled_from("ab/'\"\\ ,=${}[]()<>!~*?&|;#:%@`\n\té名.-0"), max_size=20))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_back(text):
    [word] = shlex.split(argument("key", text))
    [(key, override)] = parse([word])
    assert (key, value_of(override)) == ("key", text)


def test_a_shell_and_hydra_read_hard_texts_back():
    words = " ".join(argument(f"+text{index}", text) for index, text in enumerate(HARD))
    printed = subprocess.run(["sh", "-c", f"printf '%s\\0' {words}"], capture_output=True, text=True, check=True).stdout
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose("eval", overrides=printed.split("\0")[:-1])
    assert [composed[f"text{index}"] for index in range(len(HARD))] == HARD


@pytest.mark.parametrize(("typed", "key"), [("++a.b=1", "a.b"), ("~a", "a"), ("+g@p=o", "g@p"), ("a='b=c'", "a")])
def test_key_has_no_prefix(typed, key):
    assert [found for found, _ in parse([typed])] == [key]
