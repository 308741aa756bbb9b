"""Files of weights, of whatever project: read without executing what they contain, or named for what they are."""

import pickle
import re
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

_ZIP = b"PK\x03\x04"
# A pickle of the number with which files of torch.save began before version 1.6.
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer and not the file itself: fetch it with git lfs pull",
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x1f\x8b": "compressed with gzip: unpack it",
    b"<": "a page of HTML or XML, perhaps of a failed download",
    b"\x80": "a pickle, which would have to be executed: save its weights with torch.save or as safetensors",
    b"\x08": "an ONNX file",
}
_MAX_HEADER = 100_000_000  # bytes, of safetensors: any text in its place is a larger number
# Where others keep weights, in the order of preference: an average first, as timm does.
_KEYS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model_state"),
    *("model", "module", "net", "network", "weights", "params", "teacher", "student", "backbone", "encoder"),
)
# Of torch.compile, FSDP, activation checkpointing and Fabric; DataParallel and DDP wrap a whole model.
_WRAPPERS = re.compile(
    r"^(?:(?:module|_orig_mod|_forward_module)\.)+"
    r"|\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
# What scalars and arrays of NumPy are made of, under the names of NumPy 1 and 2.
_NUMPY = [np.ndarray, np.dtype, *{type(np.dtype(code)) for code in np.typecodes["All"]}] + [
    (value.__reduce__()[0], f"numpy.{package}.multiarray.{name}")
    for name, value in (("scalar", np.float64(0)), ("_reconstruct", np.zeros(0)))
    for package in ("core", "_core")
]


class _Inert:
    """In place of an object of another project: keeps its state and does nothing."""

    state: Any = None

    def __new__(cls, *args: Any, **options: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _InertDict(_Inert):
    """In place of a dict of another class, such as a config: becomes a plain one."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        return OrderedDict()


def read_file(path: Path) -> Any:
    """The content of a file of torch.save, on the CPU, or of a safetensors file.

    Nothing in it is executed: numbers and arrays of NumPy are read, OmegaConf's containers become plain ones, and
    objects of other classes are empty.

    Raises:
        ValueError: says in one line what the file is, or that it is truncated or damaged.
    """
    with path.open("rb") as file:
        head = file.read(64)
    size = f"{path} ({path.stat().st_size:,} bytes)"
    if not head:
        raise ValueError(f"{path} is empty (0 bytes)")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_HEADER:
        return _read_safetensors(path, size)
    if head.startswith(_ZIP) or _ZIP.startswith(head):
        _check_zip(path, size)
    elif not head.startswith(_LEGACY):
        kind = next((kind for start, kind in _OTHERS.items() if head.startswith(start)), None)
        kind = kind or ("text" if head.isascii() and b"\0" not in head else "in a format of its own")
        raise ValueError(f"{size} is not a checkpoint of torch.save or safetensors but {kind}")
    return _plain(_load(path, size))


def weights_in(content: Any, path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The weights in the content of a file, and the key that holds them, or None if it holds nothing else.

    Their names are without what `torch.compile`, DataParallel, DDP and FSDP put in front.

    Raises:
        ValueError: it holds none; the message says what it is.
    """
    if isinstance(content, Mapping):
        keys = [key for key in _KEYS if _has_weights(content.get(key))]
        keys += [None] if _has_weights(content) else [key for key, value in content.items() if _has_weights(value)]
        if keys:
            found = content if keys[0] is None else content[keys[0]]
            named = {name: weight for name, weight in found.items() if isinstance(weight, Tensor)}
            return unwrapped(named), keys[0]
        for within in filter(lambda value: isinstance(value, Mapping), content.values()):
            if any(_has_weights(within.get(key)) for key in _KEYS):
                return weights_in(within, path)
    raise ValueError(f"{path} holds no weights: it is {describe(content)}")


def unwrapped(weights: Mapping[str, Any]) -> dict[str, Any]:
    """`weights` under the names that they have in a model that is not wrapped."""
    return {_WRAPPERS.sub("", name): weight for name, weight in weights.items()}


def describe(content: Any) -> str:
    """What the content of a file of weights is, in words."""
    if isinstance(content, Tensor):
        return f"a single tensor of shape {list(content.shape)}"
    if isinstance(content, _Inert):
        return f"an object of {type(content).__name__}, saved as a whole; save its state_dict()"
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    keys = ", ".join(map(str, list(content)[:4])) + (", …" if len(content) > 4 else "")
    if "pytorch-lightning_version" in content:
        return "a Lightning checkpoint of another project"
    return (
        f"a state dict of {len(content)} weights ({keys})"
        if _has_weights(content)
        else f"a dict of {keys or 'nothing'}"
    )


def _has_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(name, str) and isinstance(weight, Tensor) for name, weight in value.items()
    )


def _read_safetensors(path: Path, size: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{size} is a safetensors file that is truncated or damaged: {_first_line(error)}") from error


def _check_zip(path: Path, size: str) -> None:
    """Check that a zip archive is one of torch.save, and is intact.

    Its directory is at its end, so opening it detects every truncation; its checksums, which torch ignores, detect
    later changes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            changed = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{size} is truncated: it has no intact end ({_first_line(error)})") from error
    if changed is not None:
        raise ValueError(f"{path} was changed after it was written: {changed} does not match its checksum")
    if any(name.endswith("constants.pkl") for name in names):
        raise ValueError(f"{path} is a TorchScript archive, not a checkpoint: save the state_dict() of torch.jit.load")
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        kind = "a NumPy archive" if names and all(name.endswith(".npy") for name in names) else "a zip archive"
        raise ValueError(f"{path} is {kind} of {', '.join(names[:3]) or 'nothing'}, not a checkpoint")


def _load(path: Path, size: str) -> Any:
    is_zip = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings(), safe_globals(_NUMPY):
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            unknown = get_unsafe_globals_in_checkpoint(path) if is_zip else []
            return _load_inert(path, dict.fromkeys(unknown, _Inert) | {"collections.defaultdict": _InertDict})
    except Exception as error:  # the unpickler raises many classes for bytes that are no pickle
        if foreign := re.search(r"GLOBAL (\S+) (?:was|whose)|got <class '([\w.]+)'>", str(error)):
            name = foreign[1] or foreign[2].removeprefix(f"{__name__}.")
            reason = f"it contains objects of {name}, which are not loaded because that could execute code"
        elif "Unsupported operand" in str(error):
            reason = "it was written with another pickle protocol than that of torch.save"
        elif is_zip:
            reason = _first_line(error)
        else:
            raise ValueError(f"{size} is truncated or damaged: {_first_line(error)}") from error
        raise ValueError(f"{path} cannot be read: {reason}. Save its weights alone, as a state dict") from error


def _load_inert(path: Path, classes: dict[str, type[_Inert]]) -> Any:
    """`torch.load` with inert objects in place of those of the named classes, and of others that it meets."""
    inert = {name: type(name, (base,), {"__module__": __name__}) for name, base in classes.items()}
    try:
        with safe_globals([(one, name) for name, one in inert.items()]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unknown = re.search(r"GLOBAL (\S+) was not", str(error))
        filled = re.search(r"Can only SETITEMS? .* but got <class '(.+)'>", str(error))
        if filled and classes.get(name := filled[1].removeprefix(f"{__name__}.")) is _Inert:
            more = {name: _InertDict}
        elif unknown and unknown[1] not in classes:
            more = {unknown[1]: _Inert}
        else:
            raise
    return _load_inert(path, {**classes, **more})


def _plain(value: Any) -> Any:
    """`value` with the containers and numbers of OmegaConf and NumPy replaced by plain ones."""
    if isinstance(value, _Inert) and isinstance(value.state, dict):
        if "_content" in value.state:
            return _plain(value.state["_content"])
        return _plain(value.state["_val"]) if "_val" in value.state else value
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
