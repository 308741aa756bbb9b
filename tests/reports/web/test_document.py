from plotly.offline import get_plotlyjs

from fvit.reports.web.document import document


def test_plotly_is_unchanged_but_for_the_parentheses():
    page = document("a title", "", {})
    begin, end = "this, () => {\n", "return Plotly;\n}));"
    assert page.count("this, (() => {\n") == 1, "plotly.js begins differently in this version, and is parsed twice"
    plain = page.replace("this, (() => {\n", begin).replace("return Plotly;\n})));", end)
    assert get_plotlyjs() in plain
