import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import auto_augment

from fvit.data.transforms import rand_augment
from fvit.data.transforms.rand_augment import transform_columns, transform_rows
from tests.data.pictures import photo

quick = settings(deadline=None, derandomize=True, database=None, max_examples=80)
FILL = (7, 130, 255)


def differences(ours, theirs):
    return np.abs(np.asarray(ours).astype(int) - np.asarray(theirs).astype(int))


@quick
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    slope=st.floats(-1.5, 1.5),
    offset=st.one_of(st.floats(-90, 90), st.integers(-3, 3).map(lambda half: half / 2)),
    seed=st.integers(0, 20),
)
def test_shear_and_translation_match_pil(width, height, slope, offset, seed):
    image = Image.fromarray(photo(width, height, seed))
    options = {"resample": Image.Resampling.BICUBIC, "fillcolor": FILL}
    for ours, matrix in (
        (transform_rows, (1, slope, offset, 0, 1, 0)),
        (transform_columns, (1, 0, 0, slope, 1, offset)),
    ):
        theirs = image.transform(image.size, Image.Transform.AFFINE, matrix, **options)
        difference = differences(ours(image, slope, offset, FILL), theirs)
        assert difference.max() <= 1
        assert difference.sum() <= 6 + 0.05 * difference.size


def test_few_values_differ():
    rng = random.Random(0)
    image = Image.fromarray(photo(224, 224))
    differing = []
    for _ in range(20):
        slope = rng.uniform(-0.3, 0.3)
        theirs = image.transform(
            image.size, Image.Transform.AFFINE, (1, slope, 0, 0, 1, 0), Image.Resampling.BICUBIC, fillcolor=FILL
        )
        differing.append(np.mean(differences(transform_rows(image, slope, 0.0, FILL), theirs) > 0))
    assert np.mean(differing) < 0.004


def test_identity_changes_nothing():
    image = Image.fromarray(photo(40, 30))
    assert not differences(transform_rows(image, 0.0, 0.0, FILL), image).any()
    assert not differences(transform_columns(image, 0.0, 0.0, FILL), image).any()


def test_result_is_not_a_reused_buffer():
    image = Image.fromarray(photo(40, 30))
    first = transform_rows(image, 0.1, 2.0, FILL)
    before = np.array(first)
    transform_rows(Image.fromarray(photo(40, 30, seed=5)), -0.3, 9.0, FILL)
    assert not differences(first, before).any()


THEIRS = {
    "ShearX": auto_augment.shear_x,
    "ShearY": auto_augment.shear_y,
    "TranslateX": auto_augment.translate_x_abs,
    "TranslateY": auto_augment.translate_y_abs,
    "TranslateXRel": auto_augment.translate_x_rel,
    "TranslateYRel": auto_augment.translate_y_rel,
}


@pytest.mark.parametrize("magnitude", [0.3, -0.17, 0.0])
@pytest.mark.parametrize("name", THEIRS)
def test_operations_match_timm(name, magnitude):
    rand_augment.install()
    ours = auto_augment.NAME_TO_OP[name]
    assert isinstance(ours, rand_augment.FastOperation)
    if name in ("TranslateX", "TranslateY"):
        magnitude *= 60
    image = Image.fromarray(photo(64, 48))
    for resample in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR):
        options = {"resample": resample, "fillcolor": FILL}
        difference = differences(ours(image, magnitude, **options), THEIRS[name](image, magnitude, **options))
        assert difference.max() <= (1 if resample == Image.Resampling.BICUBIC else 0)
    grey = image.convert("L")
    options = {"resample": Image.Resampling.BICUBIC, "fillcolor": 3}
    assert not differences(ours(grey, magnitude, **options), THEIRS[name](grey, magnitude, **options)).any()


def test_operations_can_be_sent_to_a_worker():
    rand_augment.install()
    sent = pickle.loads(pickle.dumps(auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", {})))
    assert {type(operation.aug_fn) for operation in sent.ops} >= {rand_augment.FastOperation}


@pytest.mark.parametrize(("bits", "kept"), [(8, 0xFF), (4, 0xF0), (1, 0x80), (0, 0)])
def test_posterize_keeps_the_highest_bits(bits, kept):
    pixels = photo(32, 16)
    assert not differences(rand_augment.posterize(Image.fromarray(pixels), bits), pixels & kept).any()
