"""What a person reads."""

import pytest

from fvit.run import console

ROWS = [("0-3", "Attention → Additive", "q, k", "query_logit, key_logit, transform", "v, proj")]


@pytest.mark.parametrize(
    ("model", "title"),
    [
        ({"keep": ["qkv"], "pretrained": True}, "Attention exchanged in a pretrained deit"),
        ({"keep": [], "pretrained": True}, "Attention exchanged in a pretrained deit"),
        ({"keep": ["qkv"], "pretrained": False}, "Attention exchanged in a fresh deit"),
    ],
)
def test_an_exchange_is_told_where_there_were_weights_to_keep(capsys, model, title):
    console.print_exchange({"name": "deit", **model}, ROWS)
    out = capsys.readouterr().out
    assert title in out
    assert all(word in out for word in ("blocks", "kept", "initialised", "dropped", *ROWS[0]))


@pytest.mark.parametrize(
    ("model", "rows"), [({"keep": [], "pretrained": False}, ROWS), ({}, ROWS), ({"keep": [], "pretrained": True}, [])]
)
def test_an_exchange_is_passed_over_where_there_were_none(capsys, model, rows):
    console.print_exchange({"name": "deit", **model}, rows)
    assert capsys.readouterr().out == ""
