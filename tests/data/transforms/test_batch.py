import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from timm.data import Mixup as TimmMixup
from timm.data.mixup import cutmix_bbox_and_lam
from timm.data.random_erasing import RandomErasing as TimmErasing
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fvit.data.dataset import Batch
from fvit.data.sampler import BatchLayout
from fvit.data.transforms.batch import BatchTransform, erase
from fvit.data.transforms.batch import mix as mix_images
from fvit.data.transforms.draws import Blend, Mixup, RandomErasing
from tests.data.pictures import MEAN, STD

quick = settings(deadline=None, derandomize=True, database=None, max_examples=50)
ALPHAS = [dict(mixup_alpha=mixup, cutmix_alpha=cutmix) for mixup, cutmix in ((0.8, 0.0), (0.0, 1.0), (0.8, 1.0))]
MODES = ("batch", "pair", "elem")


def mix(seed=0, global_batch=8, **options):
    settings = dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode="batch")
    made = Mixup(**{**settings, **options}, seed=seed)
    made.global_batch = global_batch
    return made


def batch(positions=range(8), side=6, classes=5, epoch=0):
    """Images as functions of their positions."""
    positions = list(positions)
    images = [np.random.default_rng(place).integers(256, size=(side, side, 3), dtype=np.uint8) for place in positions]
    numbers = torch.tensor(positions)
    return Batch(torch.from_numpy(np.stack(images)), numbers % classes, torch.full_like(numbers, epoch), numbers, ())


def transform(mixup=None, erasing=None, classes=5, mean=MEAN, std=STD, global_batch=8):
    made = BatchTransform(classes, mean, std, mixup or {}, erasing or {}, seed=0)
    if made.mixup is not None:
        made.mixup.global_batch = global_batch
    return made


def augmented(made, given, dtype=torch.float32):
    """A training batch, with what the loader draws for it."""
    keys = list(zip(given.epochs.tolist(), given.positions.tolist(), strict=True))
    return made(given._replace(draws=made.draw(keys, *given.images.shape[1:3])), True, dtype)


MIXUP = dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode="batch")
ERASING = dict(probability=1.0, mode="pixel")


# Normalisation


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0, 0, 0), (1, 1, 1))])
@pytest.mark.parametrize("train", [True, False])
def test_normalisation_matches_float64(mean, std, train):
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(2, 16, 16, 3)
    given = batch(range(2))._replace(images=levels)
    found, labels = transform(mean=mean, std=std)(given, train, torch.float32)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (mean, std))
    expected = (levels.permute(0, 3, 1, 2).double() / 255 - mean) / std
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    assert torch.equal(labels, given.labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_images_have_the_dtype_of_the_model(dtype):
    found, _ = augmented(transform(MIXUP, ERASING), batch(), dtype)
    assert found.dtype == dtype
    assert torch.equal(found, augmented(transform(MIXUP, ERASING), batch())[0].to(dtype))


def test_input_batch_is_unchanged():
    given = batch()
    augmented(transform(MIXUP, ERASING), given)
    assert torch.equal(given.images, batch().images)
    assert torch.equal(given.labels, batch().labels)


def test_evaluation_is_not_augmented():
    found, labels = transform(MIXUP, ERASING)(batch(), False, torch.float32)
    assert torch.equal(found, transform()(batch(), False, torch.float32)[0])
    assert torch.equal(labels, batch().labels)


# Mixup and cutmix


def mixed_by_hand(images, labels, blends, classes):
    """In float64, for each image and its partner, half a batch away."""
    images, size = images.double(), len(images)
    mixed, targets = images.clone(), torch.zeros(size, classes, dtype=torch.float64)
    for i, blend in enumerate(blends):
        j = (i + size // 2) % size
        if blend.box is None:
            mixed[i] = blend.weight * images[i] + (1 - blend.weight) * images[j]
        else:
            top, left, bottom, right = blend.box
            mixed[i, :, top:bottom, left:right] = images[j, :, top:bottom, left:right]
        targets[i, labels[i]] += blend.weight
        targets[i, labels[j]] += 1 - blend.weight
    return mixed, targets


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alphas", ALPHAS, ids=str)
def test_mixup_matches_float64(alphas, mode):
    images, labels = torch.randn(8, 3, 10, 12, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 5
    kinds = Counter()
    for epoch in range(10):
        made = mix(**alphas, mode=mode, prob=0.8)
        keys = [(epoch, position) for position in range(8)]
        blends = [made._draw(made._group(*key), 10, 12) for key in keys]
        found, targets = mix_images(images, labels, 5, made(keys, 10, 12))
        expected, expected_targets = mixed_by_hand(images, labels, blends, 5)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(targets.double(), expected_targets, rtol=0, atol=1e-6)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
        draws = len(set(blends))
        assert draws <= {"batch": 1, "pair": 4, "elem": 8}[mode]
        kinds[draws > 1] += 1
    assert bool(kinds[True]) == (mode != "batch")


@quick
@given(
    mode=st.sampled_from(MODES),
    alphas=st.sampled_from(ALPHAS),
    per_draw=st.sampled_from([2, 4, 8, 64]),
    epoch=st.integers(0, 3),
    step=st.integers(0, 3),
    erase=st.booleans(),
)
def test_step_is_augmented_alike_on_any_number_of_ranks(mode, alphas, per_draw, epoch, step, erase):
    options = dict(**alphas, mode=mode, prob=0.9, switch_prob=0.5)
    seen = []
    for shape in ((8,), (4, 2), (2, 4), (4, 1, 2), (2, 1, 4), (2, 2, 2)):
        layout = BatchLayout(*shape)
        made = transform(options, ERASING if erase else None)
        made.mixup.per_draw = per_draw
        images, targets = {}, {}
        for rank in range(layout.world_size):
            mine = layout.positions(step, rank).reshape(layout.accumulate, layout.batch_size)
            for positions in mine.tolist():
                found = augmented(made, batch(positions, epoch=epoch))
                images.update(zip(positions, found[0], strict=True))
                targets.update(zip(positions, found[1], strict=True))
        order = sorted(images)
        assert order == list(range(8 * step, 8 * step + 8))
        seen.append((torch.stack([images[i] for i in order]), torch.stack([targets[i] for i in order])))
    for images, targets in seen[1:]:
        assert torch.equal(images, seen[0][0])
        assert torch.equal(targets, seen[0][1])


@pytest.mark.parametrize(
    ("global_batch", "draws"), [(2, 1), (64, 1), (128, 2), (192, 3), (320, 5), (200, 2), (1024, 16), (4096, 64)]
)
def test_images_per_draw(global_batch, draws):
    made = mix(global_batch=global_batch)
    keys = [made._group(0, global_batch + offset) for offset in range(global_batch)]
    assert {keys.count(key) for key in keys} == {global_batch // draws}
    half = global_batch // 2
    assert keys[:half] == keys[half:], "partners share their draw"


@pytest.mark.parametrize("mode", MODES)
def test_draws_differ_between_epochs_steps_and_seeds(mode):
    places = [(seed, epoch, step) for seed in (0, 1) for epoch in (0, 1) for step in (0, 1)]
    makes = {seed: mix(mode=mode, seed=seed) for seed in (0, 1)}
    draws = {makes[seed]._draw(makes[seed]._group(epoch, 8 * step), 32, 32) for seed, epoch, step in places}
    assert len(draws) == len(places)


@pytest.mark.parametrize("alphas", ALPHAS, ids=str)
def test_mixup_is_distributed_as_in_timm(alphas):
    """The limit is exceeded by two samples of one distribution in 1 of 1,000 cases."""
    count, height, width = 4000, 32, 48
    made = mix(**alphas, prob=0.7, switch_prob=0.4)
    ours = [made._draw((0, i), height, width) for i in range(count)]
    np.random.seed(0)  # noqa: NPY002
    timm = TimmMixup(**alphas, prob=0.7, switch_prob=0.4, num_classes=5)
    theirs = []
    for _ in range(count):
        share, is_cutmix = timm._params_per_batch()
        box = None
        if is_cutmix:
            (top, bottom, left, right), share = cutmix_bbox_and_lam((1, 3, height, width), share)
            box = tuple(int(edge) for edge in (top, left, bottom, right))
        theirs.append(Blend(float(share), box))
    limit = 1.95 * math.sqrt(2 / count)
    for kind in (lambda b: b.weight == 1.0 and b.box is None, lambda b: b.box is None, lambda b: b.box is not None):
        assert abs(sum(map(kind, ours)) - sum(map(kind, theirs))) / count < limit
    samples = [[b.weight for b in drawn if b.box is None and b.weight < 1] for drawn in (ours, theirs)]
    samples = [samples] + [[[m(b) for b in drawn if b.box] for drawn in (ours, theirs)] for m in MEASURES]
    for mine, timms in samples:
        assert bool(mine) == bool(timms)
        if mine:
            assert ks_2samp(mine, timms).statistic < 1.95 * math.sqrt(1 / len(mine) + 1 / len(timms))


MEASURES = [
    lambda blend: blend.weight,
    *(lambda blend, edge=edge: blend.box[edge] for edge in range(4)),
    lambda blend: blend.box[2] - blend.box[0],
    lambda blend: blend.box[3] - blend.box[1],
]


# Random erasing


def erased(images, keys=None, **options):
    """Images erased at these keys, by default one each."""
    made, size = RandomErasing(**{**ERASING, "seed": 0, **options}), images.shape[-2:]
    return erase(images, made.noise(*size), made(keys or [(0, i) for i in range(len(images))], *size))


def rectangles(changed):
    """Height, width, top and left of the changed rectangles."""
    found = []
    for image in changed.numpy():
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        if len(rows):
            height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
            assert image.sum() == height * width, "a complete rectangle"
            found.append((height, width, rows[0], columns[0]))
    return np.array(found)


def test_rectangles_are_distributed_as_in_timm():
    count = 3000
    sevens = torch.full((count, 3, 32, 48), 7.0)
    ours = rectangles((erased(sevens, probability=0.6) != 7).any(dim=1))
    torch.manual_seed(0)
    random.seed(0)
    timms = TimmErasing(0.6, mode="pixel", max_count=1, device="cpu")(sevens.clone())
    theirs = rectangles((timms != 7).any(dim=1))
    assert abs(len(ours) - len(theirs)) / count < 1.95 * math.sqrt(2 / count)
    for measure in (*range(4), "area", "aspect"):
        of = {"area": lambda r: r[:, 0] * r[:, 1], "aspect": lambda r: r[:, 0] / r[:, 1]}.get(
            measure, lambda r, column=measure: r[:, column]
        )
        limit = 1.95 * math.sqrt(1 / len(ours) + 1 / len(theirs))
        assert ks_2samp(of(ours), of(theirs)).statistic < limit, measure
    for axis, side in enumerate((32, 48)):
        ends = ours[:, 2 + axis], ours[:, 2 + axis] + ours[:, axis]
        assert (ends[0].min(), ends[1].max()) == (0, side), "they reach every edge"


@quick
@given(positions=st.permutations(range(6)), kept=st.integers(1, 6), mode=st.sampled_from(["pixel", "rand", "const"]))
def test_erasing_depends_on_the_key_alone(positions, kept, mode):
    options = dict(probability=0.7, mode=mode)
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    whole = erased(images, [(2, i) for i in range(6)], **options)
    some = positions[:kept]
    torch.manual_seed(kept)
    assert torch.equal(erased(images[some], [(2, i) for i in some], **options), whole[some])


def test_erasing_differs_between_keys_and_seeds():
    places = [(seed, (epoch, i)) for seed in (0, 1) for epoch in (0, 1) for i in (0, 1)]
    assert len({erased(torch.zeros(1, 3, 32, 32), [key], seed=seed).numpy().tobytes() for seed, key in places}) == 8


def test_fill_modes():
    sevens = torch.full((200, 3, 24, 24), 7.0)
    filled = {mode: erased(sevens, mode=mode) for mode in ("const", "rand", "pixel")}
    assert set(filled["const"].unique().tolist()) == {0.0, 7.0}
    colours = [image[:, (image != 7).all(dim=0)].unique(dim=1) for image in filled["rand"]]
    assert max(colour.shape[1] for colour in colours) == 1, "one colour per image"
    colours = torch.cat(colours, dim=1)
    assert abs(colours.mean()) < 0.2
    assert colours.std() == pytest.approx(1, abs=0.1)
    noise = filled["pixel"][filled["pixel"] != 7]
    assert abs(noise.mean()) < 0.05
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert len({image[image != 7][:9].numpy().tobytes() for image in filled["pixel"]}) > 0.9 * len(sevens)


# On the device


def test_precision_of_the_model_does_not_round_draws():
    """Lightning casts the floating tensors of a batch before they reach the device."""
    for fill in ("rand", "pixel"):
        draws = transform(MIXUP, {**ERASING, "mode": fill}).draw([(0, position) for position in range(8)], 6, 6)
        assert not any(part.is_floating_point() for part in tree_leaves(draws))


class Operators(TorchDispatchMode):
    """The operators that run inside."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operators(made, size):
    given = batch(range(size), side=12)
    keys = [(0, position) for position in range(size)]
    given = given._replace(draws=made.draw(keys, 12, 12))
    made(given, True, torch.float32)  # the first batch brings the constants
    with Operators() as counted:
        made(given, True, torch.float32)
    return counted.names


@pytest.mark.parametrize("fill", ["const", "rand", "pixel"])
@pytest.mark.parametrize("mode", MODES)
def test_number_of_operators_does_not_grow_with_the_batch(mode, fill):
    made = transform({**MIXUP, "mode": mode}, {**ERASING, "mode": fill}, global_batch=64)
    few, many = operators(made, 4), operators(made, 64)
    assert few == many
    assert len(few) < 80


@pytest.mark.parametrize("fill", ["const", "rand", "pixel"])
def test_device_is_never_waited_for(fill):
    """On torch's simulation of a CUDA device, where reading a tensor on the host is an error."""
    made, given = transform(MIXUP, {**ERASING, "mode": fill}), batch()
    given = given._replace(draws=made.draw([(0, position) for position in range(8)], 6, 6))
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        given = tree_map_only(torch.Tensor, lambda tensor: fake.from_tensor(tensor).to("cuda"), given)
        made(given, True, torch.float32)
        with Operators() as counted:
            images, targets = made(given, True, torch.float32)
    assert images.device.type == targets.device.type == "cuda"
    # Constants are sent with the first batch; `_to_copy` also names casts.
    assert counted.names.count("aten._to_copy.default") == 2, counted.names
