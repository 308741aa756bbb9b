"""The rows of published.csv."""

import re

import pytest
import timm
import torch
import yaml

from fvit.config.paths import conf_dir
from fvit.cost import count
from fvit.cost.published import SOURCES, published, published_for
from fvit.models import build

ROWS = published()


def test_every_row_has_a_citation():
    assert {row.source for row in ROWS} == set(SOURCES)
    for text in SOURCES.values():
        assert re.search(r"arXiv:\d{4}\.\d{5}|IEEE|github\.com/", text)


def test_every_row_has_numbers_and_names_an_existing_model_or_none():
    options = {path.stem for path in (conf_dir() / "model").glob("*.yaml")} | set(timm.list_models())
    mechanisms = {path.stem for path in (conf_dir() / "attention").glob("*.yaml")}
    for row in ROWS:
        assert row.name
        assert row.model in options | {""}, row
        assert row.attention in mechanisms if row.model else row.attention in mechanisms - {"native"} | {""}, row
        for text in (row.params_m, row.gmacs, row.images_per_s, row.top1):
            assert text == "" or float(text) > 0, row
        assert bool(row.images_per_s) == bool(row.hardware), row


def test_all_models_of_which_transformer_to_favor_are_there():
    found = [(row.name, row.res) for row in ROWS if row.source == "WTF"]
    assert len(found) == len(set(found)) == 55


@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in ROWS if row.attention == "softmax"], ids=lambda row: row.name)
def test_published_parameters_agree_with_our_model(row):
    with torch.device("meta"):
        model = timm.create_model(f"{row.model}_patch16_224", img_size=row.res)
    params = count(model, row.res).params / 1e6
    # FViT and DeiT truncate; the benchmark's ViTs also have LayerScale.
    digits = len(row.params_m.partition(".")[2])
    assert float(row.params_m) == pytest.approx(params, rel=1e-3, abs=10**-digits / (2 if digits else 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.model.startswith("vit_") and row.attention not in ("softmax", "native") and row.top1],
    ids=lambda row: f"{row.name}-{row.res}",
)
def test_published_mechanisms_are_those_of_their_row(row):
    """To 5 %: details such as Linformer's number of projections and class tokens differ."""
    attention = yaml.safe_load((conf_dir() / "attention" / f"{row.attention}.yaml").read_text())
    with torch.device("meta"):
        model = build(f"{row.model}_patch16_224", row.res, 1000, attention, class_token=False, global_pool="avg")
    assert float(row.params_m) == pytest.approx(sum(p.numel() for p in model.parameters()) / 1e6, rel=0.05)


def test_rows_are_found_by_model_and_attention():
    found = published_for({("vit_base", "additive"), ("vit_tiny", "softmax"), ("vit_tiny depth=3", "softmax")})
    assert {(row.model, row.attention) for row in found} == {("vit_base", "additive"), ("vit_tiny", "softmax")}
    assert published_for(set()) == []
