from plotly.offline import get_plotlyjs

from fvit.reports.web.document import document


def test_the_library_is_called_at_once_and_is_otherwise_as_it_is():
    page = document("a title", "", {})
    begin, end = "this, () => {\n", "return Plotly;\n}));"
    assert page.count("this, (() => {\n") == 1, "plotly.js begins otherwise than it did, and is read twice again"
    plain = page.replace("this, (() => {\n", begin).replace("return Plotly;\n})));", end)
    assert get_plotlyjs() in plain
