import io

import matplotlib.figure
import pytest
from PIL import Image

from fvit.reports.bench.charts import charts, points
from fvit.reports.bench.picture import picture
from tests.reports.bench.found import CONFIG, law, row


@pytest.fixture
def figure(monkeypatch):
    """The last figure that was drawn."""
    made = []

    class Noted(matplotlib.figure.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(matplotlib.figure, "Figure", Noted)
    return lambda: made[-1]


def test_curves_are_drawn_side_by_side(figure):
    rows = law("softmax", lambda n: n**2 * 1e-8) + law("linear", lambda n: n * 1e-5) + law("additive", lambda n: n)
    drawn = charts(points(rows), CONFIG)[:3]
    image = Image.open(io.BytesIO(picture(drawn)))
    assert image.format == "PNG"
    assert image.width > image.height
    axes = figure().axes
    assert [place.get_title() for place in axes if place.get_visible()] == [chart.title for chart in drawn]
    assert sum(place.get_visible() for place in axes) == 3, "the fourth place is empty"
    assert axes[0].get_xscale() == axes[0].get_yscale() == "log"
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == [s.name for s in drawn[0].series]
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["197\n224 px", "577\n384 px", "4,097\n1024 px"]


def test_bars_are_drawn_for_one_size(figure):
    picture(charts(points([row("softmax"), row("additive", seconds=0.005)]), CONFIG)[:1])
    [axes] = figure().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["vit_tiny additive", "vit_tiny softmax"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([5, 10])
