"""The rows of published.csv."""

import re

import pytest
import timm
import torch

from fvit import attention
from fvit.config.paths import conf_dir
from fvit.cost import count
from fvit.cost.published import SOURCES, published, published_for

ROWS = published()


def test_every_row_has_a_citation():
    assert {row.source for row in ROWS} == set(SOURCES)
    for text in SOURCES.values():
        assert re.search(r"arXiv:\d{4}\.\d{5}|IEEE", text)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.source}-{row.name}-{row.res}")
def test_every_row_names_an_existing_model(row):
    options = {path.stem for path in (conf_dir() / "model").glob("*.yaml")}
    assert row.model in options or timm.is_model(row.model)
    assert row.attention in {*attention.names(), "native"}
    for text in (row.params_m, row.gmacs, row.images_per_s, row.top1):
        assert text == "" or float(text) > 0
    assert bool(row.images_per_s) == bool(row.hardware)


@pytest.mark.parametrize("row", [row for row in ROWS if row.attention == "softmax"], ids=lambda row: row.name)
def test_published_parameters_agree_with_our_model(row):
    with torch.device("meta"):
        model = timm.create_model(f"{row.model}_patch16_224", img_size=row.res)
    params = count(model, row.res).params / 1e6
    # FViT and DeiT truncate; the benchmark's ViTs also have LayerScale.
    assert float(row.params_m) == (
        pytest.approx(params, rel=1e-3) if "." in row.params_m else pytest.approx(params, abs=1)
    )


def test_rows_are_found_by_model_and_attention():
    found = published_for({("vit_base", "additive"), ("vit_tiny", "softmax"), ("vit_tiny depth=3", "softmax")})
    assert {(row.model, row.attention) for row in found} == {("vit_base", "additive"), ("vit_tiny", "softmax")}
    assert published_for(set()) == []
