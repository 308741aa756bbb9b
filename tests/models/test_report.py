"""What an exchange says of itself."""

import dataclasses

import pytest

from fvit.models import exchange, exchange_rows

from .small import being_built, host_of, small_host


def test_nothing_is_reported_where_nothing_was_exchanged():
    assert exchange_rows(small_host()) == []
    assert exchange(small_host(), "linear", blocks=[]).exchange_report == ()


def test_a_report_is_plain_and_cannot_be_changed():
    report = exchange(small_host(), "additive", blocks=[1], keep=["q"]).exchange_report[0]
    assert dataclasses.asdict(report) == {
        "block": 1,
        "old": "Attention",
        "new": "AdditiveAttention",
        "kept": ("q.weight", "q.bias"),
        "initialised": ("k.weight", "k.bias", "query_logit", "key_logit", "transform.weight", "transform.bias"),
        "dropped": ("k.weight", "k.bias", "v.weight", "v.bias", "proj.weight", "proj.bias"),
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.block = 2


def test_the_last_exchange_of_each_block_counts():
    model = exchange(small_host(), "linear", blocks="1-2")
    exchange(model, "additive", blocks="0-1")
    assert [(report.block, report.old, report.new) for report in model.exchange_report] == [
        (0, "Attention", "AdditiveAttention"),
        (1, "LinearAttention", "AdditiveAttention"),
        (2, "Attention", "LinearAttention"),
    ]


def test_a_model_that_was_built_with_another_attention_reports_as_well():
    assert [report.new for report in being_built("additive").exchange_report] == ["AdditiveAttention"] * 3


def test_neighbours_share_a_row():
    model = exchange(small_host(depth=8), "linear", blocks=[0, 1, 3, 4, 5], keep=["qkv", "proj"])
    exchange(model, "additive", blocks="6-7", keep=["q"])
    kept = ("Attention → LinearAttention", "q, k, v, proj", "–", "–")
    assert exchange_rows(model) == [
        ("0-1", *kept),
        ("3-5", *kept),
        ("6-7", "Attention → AdditiveAttention", "q", "k, query_logit, key_logit, transform", "k, v, proj"),
    ]


def test_what_is_lost_is_in_the_row():
    assert exchange_rows(exchange(host_of("eva02"), "relu"))[0][4] == "q, k, v, proj, rope"
    [row] = exchange_rows(exchange(host_of("beit"), "linear", keep=["qkv", "proj"]))
    assert row[2:] == ("q, k, v, proj", "–", "rel_pos.relative_position_bias_table")
