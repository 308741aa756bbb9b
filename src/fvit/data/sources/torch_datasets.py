"""Torch datasets as sources: those of torchvision by name, and what a function of your own returns."""

import inspect
import tarfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.datasets
from filelock import FileLock
from pydantic import ImportString, TypeAdapter, ValidationError

from fvit.data.formats.torch_dataset import DatasetImages, class_names
from fvit.data.images import DataError, Images, Subset
from fvit.data.sources.base import Source
from fvit.data.sources.downloads import given_up_when_stalled

# Of torchvision's constructors, which call the sets differently; the first that a class knows.
_TRAIN = ({"train": True}, {"split": "train"}, {"split": "trainval"}, {"split": "train-standard"})
_VAL = ({"train": False}, {"split": "val"}, {"split": "valid"}, {"split": "test"})
_SET_BY_FVIT = {"self", "root", "download", "transform", "transforms", "target_transform", "loader"}


def own(dataset: str | None = None, options: dict[str, Any] | None = None) -> Source:
    """The datasets for training, for validation and, if there is a third, for the test, that your own function returns.

    Their items are an image (PIL's, uint8 [H, W, 3] or encoded bytes) and the index of its class; the names of the
    classes are in ``.classes`` of the first.

    Args:
        dataset: the function, as ``package.module:function``.
        options: its arguments.
    """
    if dataset is None:
        raise ValueError("data=own needs data.dataset: package.module:function, which returns two or three datasets")
    try:
        function = TypeAdapter(ImportString).validate_python(dataset)
    except ValidationError as error:
        raise ValueError(
            f"data.dataset={dataset} cannot be imported: {error.errors()[0]['msg']}. Write package.module:function; "
            "`python -m fvit.train` also searches the current folder, `fvit-train` only PYTHONPATH"
        ) from None
    except Exception as error:
        raise _failure(f"data.dataset={dataset} cannot be imported", error) from error
    if not callable(function):
        raise ValueError(f"data.dataset={dataset} is no function but {type(function).__name__}")
    options, signature = options or {}, inspect.signature(function)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ValueError(f"data.options={options} does not fit {dataset}{signature}: {error}") from None
    try:
        sets = function(**options)
    except Exception as error:
        raise _failure(f"data.dataset={dataset} failed", error) from error
    if isinstance(sets, Source):
        return sets
    if not isinstance(sets, tuple | list) or len(sets) not in (2, 3):
        raise ValueError(
            f"{dataset} returned a {type(sets).__name__}, but must return two or three datasets: train, val, test"
        )
    return _source(dict(zip(("train", "val", "test"), sets, strict=False)), dataset)


def _failure(what: str, error: Exception) -> ValueError:
    """One line for an exception in code that is not fvit's."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return ValueError(
        f"{what}: {type(error).__name__}{text and f': {text}'} ({frame.filename}, line {frame.lineno}); "
        "HYDRA_FULL_ERROR=1 in front of the command shows the traceback"
    )


def torchvision_dataset(
    dataset: str | None = None,
    root: str | None = None,
    download: bool = True,
    options: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    val: dict[str, Any] | None = None,
    test: dict[str, Any] | None = None,
) -> Source:
    """A dataset of torchvision whose items are an image and the index of its class.

    Args:
        dataset: the name of the class, such as ``FashionMNIST``.
        root: the folder with its files.
        download: fetch what is missing, if the class can.
        options: further arguments of the class.
        train: those for the training set alone; None: ``train=True``, or ``split`` with ``train`` or ``trainval``.
        val: those for the validation set; None: ``train=False``, or ``split`` with ``val``, ``valid`` or ``test``. If
            the class knows neither, a fifth of each class of images is for validation.
        test: those for the test set; None: ``split=test``, if the class has that besides ``val``.
    """
    cls = _dataset_class(dataset)
    known = _parameters(cls)
    for key, given in (("options", options), ("train", train), ("val", val), ("test", test)):
        if unknown := [name for name in given or {} if name not in known or name in _SET_BY_FVIT]:
            takes = ", ".join(name for name in known if name not in _SET_BY_FVIT)
            raise ValueError(f"data.{key}.{unknown[0]} is not an option of {dataset}; its options: {takes or 'none'}")
    shared: dict[str, Any] = dict(options or {})
    lock: AbstractContextManager = nullcontext()
    if "root" in known:
        if root is None:
            raise ValueError(f"data=torchvision needs data.root: a folder with the files of {dataset}, or for them")
        shared["root"] = Path(root).expanduser()
    if "download" in known:
        shared["download"] = download
        if download:  # one process at a time
            shared["root"].mkdir(parents=True, exist_ok=True)
            lock = FileLock(shared["root"] / f".{dataset}.lock")
    with lock:
        if train is None and val is None and not {"train", "split"} & known.keys():
            return _divided(_build(cls, shared, [{}])[0], dataset)
        sets = {}
        for name, chosen, usual in (("train", train, _TRAIN), ("val", val, _VAL)):
            candidates = [one for one in usual if one.keys() <= known.keys()] if chosen is None else [chosen]
            sets[name], taken = _build(cls, shared, candidates)
        if test is not None or (val is None and taken.get("split") in ("val", "valid")):
            sets["test"], _ = _build(cls, shared, [test or {"split": "test"}])
    return _source(sets, dataset)


def _source(sets: Mapping[str, Any], name: str) -> Source:
    images = {split: DatasetImages(one, f"{name} ({split})") for split, one in sets.items()}
    known = {split: names for split, one in sets.items() if (names := class_names(one))}
    classes = known.get("train") or _numbered(images.values())
    for split, names in known.items():
        if names != classes:
            differing = ", ".join(sorted({*names} ^ {*classes})) or "they are in another order"
            raise DataError(f"the classes of {name} differ between train and {split}: {differing}")
    return Source(**images, classes=classes)


def _divided(whole: Any, name: str) -> Source:
    """Four fifths of each class for training, and the rest for validation; always the same."""
    from sklearn.model_selection import train_test_split

    images = DatasetImages(whole, name)
    try:
        parts = train_test_split(np.arange(len(images)), test_size=0.2, random_state=0, stratify=images.labels)
    except ValueError as error:
        raise DataError(
            f"{name} is in one piece that cannot be divided ({error}): set data.train and data.val"
        ) from error
    train, val = (Subset(images, np.sort(part)) for part in parts)
    return Source(train, val, class_names(whole) or _numbered([images]))


def _numbered(sets: Iterable[Images]) -> list[str]:
    return [str(label) for label in range(1 + max(int(images.labels.max()) for images in sets))]


def _build(
    cls: type, shared: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]
) -> tuple[Any, Mapping[str, Any]]:
    """The dataset with the first of the candidates that its class accepts, and that candidate."""
    name, refused = cls.__name__, "it has no arguments train and split"
    for chosen in candidates:
        if both := sorted(shared.keys() & chosen.keys()):
            raise ValueError(f"data.options.{both[0]} differs between sets: set it in data.train and data.val")
        try:
            with given_up_when_stalled():
                return cls(**shared, **chosen), chosen
        except ValueError as error:
            if len(candidates) == 1 or "for argument split" not in str(error):  # as all of torchvision say it
                raise ValueError(f"torchvision's {name} refuses {shared | chosen}: {error}") from error
            refused = str(error)
        except TypeError as error:  # an argument is missing, or has another type
            raise ValueError(f"torchvision's {name} cannot be built: {error}; set data.options") from error
        except (OSError, HTTPException, RuntimeError, tarfile.TarError) as error:
            reason = str(error).partition("You can use download")[0].strip() or type(error).__name__
            advice = {False: "; set data.download=true", None: "; torchvision cannot download it: put its files there"}
            raise DataError(
                f"torchvision's {name} cannot be read from {shared.get('root', 'memory')}: {reason}"
                f"{advice.get(shared.get('download'), '')}"
            ) from error
    raise ValueError(f"set data.train and data.val, the arguments that make {name} the one and the other: {refused}")


def _dataset_class(name: str | None) -> type:
    base = torchvision.datasets.VisionDataset
    classes = {one: getattr(torchvision.datasets, one) for one in sorted(torchvision.datasets.__all__)}
    known = [one for one, cls in classes.items() if isinstance(cls, type) and issubclass(cls, base) and cls is not base]
    if name is None:
        raise ValueError(f"data=torchvision needs data.dataset: {', '.join(known)}")
    if name not in known:
        raise ValueError(f"data.dataset={name} is not a dataset of torchvision; known: {', '.join(known)}")
    return classes[name]


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Those of the constructor, and of its base class where it passes further ones on."""
    found: dict[str, inspect.Parameter] = {}
    for one in (one for one in cls.__mro__ if "__init__" in vars(one)):
        own = inspect.signature(one.__init__).parameters.values()
        found = {p.name: p for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} | found
        if all(p.kind != p.VAR_KEYWORD for p in own):
            break
    return found
