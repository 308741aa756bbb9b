import csv
import io
import json

import pytest

from fvit.reports.predictions import MAX_ROWS, Prediction, Tally, writing

GIVEN = [
    Prediction("a.jpg", [("Käfer, groß", 0.75), ('the "other"', 0.25)]),
    Prediction("b,c.jpg", [], "is empty"),
    Prediction("d.jpg", [("x", 2 / 3), ("y", 1 / 3)]),
]


def written(form, predictions=GIVEN):
    file = io.BytesIO()
    with writing(file, form, 2) as write:
        for one in predictions:
            write(one)
    return file.getvalue().decode()


def test_csv_has_one_row_per_image():
    rows = list(csv.DictReader(io.StringIO(written(".csv"))))
    assert [row["file"] for row in rows] == ["a.jpg", "b,c.jpg", "d.jpg"]
    assert (rows[0]["class1"], rows[0]["probability1"], rows[0]["class2"]) == ("Käfer, groß", "0.75", 'the "other"')
    assert [row["error"] for row in rows] == ["", "is empty", ""]
    assert rows[1]["class1"] == rows[1]["probability2"] == ""
    assert float(rows[2]["probability1"]) == pytest.approx(2 / 3, abs=1e-6)


@pytest.mark.parametrize("form", [".csv", ".json", ".jsonl"])
def test_file_name_that_is_not_utf8_is_escaped(form):
    name = b"caf\xe9.jpg".decode(errors="surrogateescape")
    text = written(form, [Prediction(name, [("x", 1.0), ("y", 0.0)]), GIVEN[2]])
    assert "caf\\udce9.jpg" in text
    assert "d.jpg" in text
    if form == ".json":
        assert json.loads(text)[0]["file"] == name


@pytest.mark.parametrize("form", [".json", ".jsonl"])
def test_json_is_a_list_and_jsonl_one_object_per_line(form):
    text = written(form)
    found = json.loads(text) if form == ".json" else [json.loads(line) for line in text.splitlines()]
    assert found[0]["top"][0] == {"class": "Käfer, groß", "probability": 0.75}
    assert found[1] == {"file": "b,c.jpg", "error": "is empty"}
    assert found[2]["top"][1]["probability"] == pytest.approx(1 / 3, abs=1e-6)
    assert len(found) == 3


def shown(predictions, capsys):
    tally = Tally(["x", "y"])
    for one in predictions:
        tally.add(one)
    tally.print(2.0, [("saved to", "here.csv")])
    return capsys.readouterr().out


def test_few_images_are_printed_one_by_one(capsys):
    out = shown(GIVEN, capsys)
    assert "Käfer, groß  75.0 %" in out
    assert "skipped b,c.jpg: is empty" in out
    assert "2 in 2.0 s, 1 images/s; 1 skipped" in out
    assert "here.csv" in out


def test_many_images_are_summarised(capsys):
    many = [Prediction(f"{i}.jpg", [("even" if i % 4 else "fourth", 0.5), ("z", 0.1)]) for i in range(MAX_ROWS + 20)]
    out = shown([*many, *(Prediction(f"bad {i}", [], "is empty") for i in range(12))], capsys)
    assert "0.jpg" not in out
    assert "75.0 %" in next(line for line in out.splitlines() if "even" in line)
    assert "mean probability of the predicted class: 50.0 %" in out
    assert out.count("skipped bad") == 10
    assert "… and 2 more" in out


def test_folders_that_are_not_named_after_a_class_are_named(capsys):
    given = [Prediction(f"{folder}/a.jpg", [("x", 1.0), ("y", 0.0)], label=name) for folder, name in LABELLED.items()]
    out = shown(given, capsys)
    assert "100.00 % of 1 images in folders named after classes" in out
    assert "2 in folders not named after a class: w, z" in out


LABELLED = {"x": "x", "z": "", "w": ""}
