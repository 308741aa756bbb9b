import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from fvit.config.overrides import argument


def test_plain_values_are_not_quoted_and_others_as_in_the_docs():
    assert argument("ckpt_path", "logs/train/runs/2026-01-02_03-04-05-ab12") == (
        "ckpt_path=logs/train/runs/2026-01-02_03-04-05-ab12"
    )
    assert argument("ckpt_path", "/my runs/1") == "\"ckpt_path='/my runs/1'\""


@pytest.mark.parametrize("text", ["/my runs/é (1)", "a,b=[c]", "it's", 'say "x"', "50 $ off", "back\\", "a`b", "!", ""])
def test_shell_and_hydra_read_it_back(text):
    [word] = shlex.split(argument("key", text))
    [override] = OverridesParser.create().parse_overrides([word])
    assert (override.key_or_group, override.value()) == ("key", text)
