import numpy as np
import pytest
import scipy.io

from fvit.data.images import DataError
from fvit.data.sources.ground_truth import DEVKIT, ground_truth

CLASSES = ["n01440764", "n01443537", "n01484850"]
NAMES = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 6)]
LABELS = [2, 0, 1, 1, 2]
# ILSVRC's own ids follow another order than WordNet's, and go on with synsets that are no leaves.
IDS = {"n01440764": 3, "n01443537": 1, "n01484850": 2, "n00001740": 4}
# A permutation of the lines: lists that name files need not be sorted.
SHUFFLED = [3, 0, 4, 1, 2]


def write_text(folder, labels):
    (folder / "val.txt").write_text("".join(f"{NAMES[index]} {labels[index]}\n" for index in SHUFFLED))


def write_kaggle(folder, synsets):
    rows = "".join(f"{NAMES[i].removesuffix('.JPEG')},{synsets[i]} 1 2 3 4 {synsets[i]} 5 6 7 8\n" for i in SHUFFLED)
    (folder / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{rows}")


def write_devkit(folder, ids, meta=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{id_}\n" for id_ in ids))
    write_meta(meta or folder)


def write_meta(folder):
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    synsets = np.array([[(float(id_), wnid, "a fish", 0.0)] for wnid, id_ in IDS.items()], dtype=kind)
    scipy.io.savemat(folder / "meta.mat", {"synsets": synsets})


def synsets():
    return [CLASSES[label] for label in LABELS]


@pytest.mark.parametrize("form", ["label", "synset", "folder and synset", "no suffix"])
def test_val_txt(tmp_path, form):
    write_text(tmp_path, LABELS if form == "label" else synsets())
    path = tmp_path / "val.txt"
    if form == "folder and synset":
        path.write_text(path.read_text().replace("ILSVRC", "val/ILSVRC") + "\n")
    if form == "no suffix":
        path.write_text(path.read_text().replace(".JPEG", ""))
    assert ground_truth([tmp_path], NAMES, CLASSES).tolist() == LABELS


def test_kaggles_solution(tmp_path):
    write_kaggle(tmp_path, synsets())
    labels = ground_truth([tmp_path], NAMES, CLASSES)
    assert labels.tolist() == LABELS
    assert labels.dtype == np.int32


@pytest.mark.parametrize("place", ["together", "meta in the devkit"])
def test_the_devkits_ids_are_translated(tmp_path, place):
    meta = None
    if place == "meta in the devkit":
        meta = tmp_path / DEVKIT
        meta.mkdir(parents=True)
    write_devkit(tmp_path, [IDS[synset] for synset in synsets()], meta)
    assert ground_truth([tmp_path], NAMES, CLASSES).tolist() == LABELS


def test_folders_are_searched_in_order(tmp_path):
    for name, labels in (("a", None), ("b", LABELS), ("c", [0] * 5)):
        (tmp_path / name).mkdir()
        if labels:
            write_text(tmp_path / name, labels)
    assert ground_truth([tmp_path / name for name in "abc"], NAMES, CLASSES).tolist() == LABELS


def test_without_a_list_it_says_what_was_looked_for_and_where(tmp_path):
    match = (
        rf"{NAMES[0]} and 4 others .*val\.txt, LOC_val_solution\.csv, ILSVRC2012_\S+ was found in none of {tmp_path}"
    )
    with pytest.raises(DataError, match=match):
        ground_truth([tmp_path], NAMES, CLASSES)


@pytest.mark.parametrize("write", [write_text, write_kaggle])
def test_a_list_of_another_length(tmp_path, write):
    write(tmp_path, synsets())
    with pytest.raises(DataError, match="has 5 lines for 4 images"):
        ground_truth([tmp_path], NAMES[:4], CLASSES)


def test_ids_of_another_number(tmp_path):
    write_devkit(tmp_path, [1, 2, 3])
    with pytest.raises(DataError, match=r"ground_truth\.txt has 3 lines for 5 images"):
        ground_truth([tmp_path], NAMES, CLASSES)


def test_an_image_that_the_list_does_not_name(tmp_path):
    write_text(tmp_path, LABELS)
    (tmp_path / "val.txt").write_text((tmp_path / "val.txt").read_text().replace("00000003", "00000004"))
    with pytest.raises(DataError, match=r"does not name ILSVRC2012_val_00000003\.JPEG"):
        ground_truth([tmp_path], NAMES, CLASSES)


@pytest.mark.parametrize(("labels", "stranger"), [([0, 1, 2, 3, 0], "3"), ([0, 1, 2, -1, 0], "-1")])
def test_a_label_out_of_range(tmp_path, labels, stranger):
    write_text(tmp_path, labels)
    with pytest.raises(DataError, match=rf"val\.txt: '{stranger}' is no class of train; .* or 0 … 2 in"):
        ground_truth([tmp_path], NAMES, CLASSES)


@pytest.mark.parametrize("write", [write_text, write_kaggle])
def test_a_synset_that_train_lacks(tmp_path, write):
    write(tmp_path, [*synsets()[:4], "n02084071"])
    with pytest.raises(DataError, match="'n02084071' is no class of train"):
        ground_truth([tmp_path], NAMES, CLASSES)


def test_an_id_that_meta_lacks(tmp_path):
    write_devkit(tmp_path, [1, 2, 3, 1001, 1])
    with pytest.raises(DataError, match=r"the id 1001 is not in .*meta\.mat"):
        ground_truth([tmp_path], NAMES, CLASSES)


def test_an_id_of_no_leaf(tmp_path):
    write_devkit(tmp_path, [1, 2, 3, 4, 1])
    with pytest.raises(DataError, match="'n00001740' is no class of train"):
        ground_truth([tmp_path], NAMES, CLASSES)


def test_ids_without_meta(tmp_path):
    write_devkit(tmp_path, [1, 2, 3, 1, 1])
    (tmp_path / "meta.mat").unlink()
    with pytest.raises(DataError, match=r"ILSVRC's own ids, and the meta\.mat that translates them is not beside it"):
        ground_truth([tmp_path], NAMES, CLASSES)


@pytest.mark.parametrize("content", [b"", b"no matlab" * 100, "cut", "cut where it is compressed", "others"])
def test_meta_that_is_something_else(tmp_path, content):
    write_devkit(tmp_path, [1, 2, 3, 1, 1])
    meta = tmp_path / "meta.mat"
    if content == "others":
        scipy.io.savemat(meta, {"others": np.arange(3)})
    else:
        if content == "cut where it is compressed":
            scipy.io.savemat(meta, {"synsets": np.arange(5000)}, do_compression=True)
        meta.write_bytes(content if isinstance(content, bytes) else meta.read_bytes()[:400])
    with pytest.raises(DataError, match=r"meta\.mat is not the devkit's list of synsets"):
        ground_truth([tmp_path], NAMES, CLASSES)


def test_a_line_of_another_form(tmp_path):
    (tmp_path / "val.txt").write_text("65\n970\n")
    with pytest.raises(DataError, match=r"val\.txt, entry 1: '65' is not a file and its label"):
        ground_truth([tmp_path], NAMES, CLASSES)


def test_columns_of_another_csv(tmp_path):
    (tmp_path / "LOC_val_solution.csv").write_text("file,class\na,b\n")
    with pytest.raises(DataError, match=r"needs the columns ImageId and PredictionString; it has \['file', 'class'\]"):
        ground_truth([tmp_path], NAMES, CLASSES)
