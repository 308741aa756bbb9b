"""Errors as one message with the remedy; a traceback is for bugs alone."""

import difflib
import errno
import re
import traceback
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

import fvit
from fvit.config.keys import suggest
from fvit.config.overrides import argument

_PACKAGE = Path(fvit.__file__).parent

# Launchers that need an extra of this package.
_LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"}
# Commands for which Hydra makes a run directory.
WITH_RUN_DIR = ("train", "eval", "cascade", "bench")

# Packages whose names differ from those of their modules.
_PACKAGE_OF = {
    "PIL": "pillow",
    "dotenv": "python-dotenv",
    "hydra": "hydra-core",
    "open_clip": "open_clip_torch",
    "sklearn": "scikit-learn",
}
# What needs less memory, by command.
_SMALLER = {
    "train": "micro_batch_size=N with fewer images than now at a time, which changes no result but that of batch "
    "normalisation, or grad_checkpointing=true",
    "eval": "a smaller data.eval_batch_size=N",
    "cascade": "a smaller data.eval_batch_size=N",
    "predict": "a smaller batch_size=N",
}

REMOVED = {"model.trim_last": "was removed in 0.2.0: every model computes all its tokens; leave it out"}
DISK_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the size limit (ulimit -f)",
}
_SHARED_MEMORY = re.compile(r"shared memory|unable to (write to|resize|open|allocate) .*</?torch_|signal: Bus error")


class ConfigError(ValueError):
    """An invalid configuration; the message names each key, its value and the remedy."""


class RunError(RuntimeError):
    """A run that cannot go on, for a reason that the message explains."""


def did_you_mean(name: str, known: Collection[str]) -> str:
    """', did you mean a or b?' or ''."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""


def unknown_key(key: str, value: object, known: Collection[str]) -> str:
    """The message for a key that does not exist."""
    listed = f"; known: {', '.join(known)}" if known else ""
    return f"unknown key {key}={value!r}{did_you_mean(key.rpartition('.')[2], known)}{listed}"


def explain(error: BaseException, task: str = "train") -> str | None:
    """The message for a user's mistake, or None for anything else, which needs its traceback.

    A mistake is an override that Hydra refuses, a ValueError, FileNotFoundError or RunError that fvit raises, an
    argument that a function does not take, what Lightning calls a misconfiguration, a file that cannot be written, a
    package that is not installed, or a model that needs more memory than there is.

    Args:
        error: the exception.
        task: the command's name without ``fvit-``.
    """
    from hydra.errors import HydraException, InstantiationException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, OverrideParseException):
        return _explain_grammar(error.override)
    if isinstance(error, InstantiationException) and error.__cause__ and (cause := explain(error.__cause__, task)):
        return cause
    if isinstance(error, HydraException | OmegaConfBaseException):
        if isinstance(error.__cause__, ConfigError):  # raised by a constructor that Hydra called
            return str(error.__cause__)
        return _explain_hydra(error, task)
    # Lightning's exception is recognised by its name: importing it would import torch.
    if isinstance(error, RunError | ConfigError) or type(error).__name__ == "MisconfigurationException":
        return str(error)
    if message := _explain_memory(error, task) or _explain_import(error):
        return message
    frames = traceback.extract_tb(error.__traceback__)
    raised_here = bool(frames) and _PACKAGE in Path(frames[-1].filename).parents
    if isinstance(error, ValueError | FileNotFoundError) and raised_here:
        return _with_nearest(str(error))
    if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
        return str(error)
    if group := _misused_group(error):
        return group
    if loader := explain_loader(error, task):
        return loader
    if isinstance(error, OSError) and error.filename is not None:
        is_default = task in WITH_RUN_DIR and Path(error.filename).absolute().is_relative_to(Path.cwd() / "logs")
        advice = ". If the run cannot be written there, set hydra.run.dir=DIR (of a sweep: hydra.sweep.dir=DIR)"
        return f"cannot use {error.filename}: {error.strerror}{advice if is_default else ''}"
    if isinstance(error, OSError) and error.errno in DISK_FULL:  # the error of an open file names no file
        return f"{DISK_FULL[error.errno]}: free some space and repeat the command"
    return None


def explain_loader(error: BaseException, task: str = "train") -> str | None:
    """For what becomes of data loader processes: torch raises it wherever the main process is, with its own words."""
    option = {"predict": "num_workers", "prepare": "workers"}.get(task, "data.num_workers")
    fewer = f"use fewer processes: {option}=N (0: none)"
    files = "".join(frame.filename for frame in traceback.extract_tb(error.__traceback__))
    no_semaphore = isinstance(error, OSError) and error.errno == errno.ENOSPC and "multiprocessing" in files
    if no_semaphore or (isinstance(error, RuntimeError) and _SHARED_MEMORY.search(str(error))):
        return (
            "/dev/shm is full, the shared memory through which data loader processes send images: give the container "
            f"more (docker run --shm-size=8g), or {fewer}"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN) and "multiprocessing" in files:
        return f"a data loader process could not be started ({error.strerror}): give the job more memory, or {fewer}"
    if not isinstance(error, RuntimeError):
        return None
    if dead := re.match(r"DataLoader worker \(pid\S* ([\d, ]+)\) (?:is )?(.+?)[. ]*$", str(error)):
        return (
            f"a data loader process (pid {dead[1]}) was lost: {dead[2]}. Memory has probably run out; give the job "
            f"more, or {fewer}"
        )
    if slow := re.match(r"DataLoader timed out after (\d+) seconds", str(error)):
        return f"the data loader processes delivered no batch for {slow[1]} s; check the storage that they read from"
    return None


def describe(error: BaseException) -> str:
    """The message for a user's mistake, the type and text of any other error."""
    return explain(error) or f"{type(error).__name__}: {error}"


def _explain_memory(error: BaseException, task: str) -> str | None:
    """For torch's errors, which come as a class of its own, from the CPU's allocator, or from cuBLAS and cuDNN."""
    text = str(error)
    full = type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and re.search(r"can't allocate memory|out of memory|STATUS_ALLOC_FAILED", text)
    )
    if not full:
        return None
    where = "this machine" if "CPUAllocator" in text else "the GPU"
    wanted = re.search(r"tried to allocate ([\d.]+ \w+)", text, flags=re.IGNORECASE)
    advice = _SMALLER.get(task)
    return (
        f"{where} is out of memory{f', when another {wanted[1]} was needed' if wanted else ''}"
        f"{f'. Try {advice}' if advice else ''}"
    )


def _explain_import(error: BaseException) -> str | None:
    """For a package that is not installed; a missing module of an installed one is a bug."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    if error.name is None:  # by a library that says what to install
        return str(error)
    module = error.name.partition(".")[0]
    if find_spec(module) is not None:
        return None
    package = _PACKAGE_OF.get(module, module)
    return f"the package {package} is not installed: pip install {package}"


def _with_nearest(message: str) -> str:
    """Insert the nearest name into a message such as "unknown attention 'addtive'; known: additive, agent, …"."""
    unknown = r"'([\w.:-]+)'|(?:\w+[.=])+([\w-]+) is not [^;]*"
    if match := re.search(rf"(?:{unknown})(?=; [a-z ]+: ((?:[\w.:-]+, )*[\w.:-]+))", message):
        near = did_you_mean(match[1] or match[2], match[3].split(", "))
        return message[: match.end()] + near + message[match.end() :]
    return message


def _misused_group(error: BaseException) -> str | None:
    """For logger=null or attention=3, where Hydra's own message does not name the override."""
    from hydra.core.override_parser.types import Override

    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    override = trace and trace.tb_frame.f_locals.get("override")
    if not (isinstance(error, ValueError) and isinstance(override, Override)):
        return None
    name = override.key_or_group
    return f"{override.input_line}: {name} takes the name of one of its options; `fvit-train --help` lists them"


def _explain_grammar(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override!r} is not an override: write KEY=VALUE"
    advice = f"; if the value is a string or a path, write {argument(key, value)}" if value else ""
    return f"{override} cannot be parsed as KEY=VALUE in Hydra's grammar{advice}"


def _explain_hydra(error: BaseException, task: str) -> str:
    """Hydra's message, with the nearest name instead of the advice to add a key that nothing reads."""
    text = str(error)
    if cause := error.__cause__:
        text += f"\n{cause}"
    # "Could not find 'attention/additiv'\n\nAvailable options in 'attention':\n\tadditive\n\t…"
    if match := re.search(r"Could not (?:find|load) '(?P<group>[\w/]+)/(?P<option>[\w.-]*)'", text):
        if match["group"] == "hydra/launcher" and match["option"] in _LAUNCHERS:
            extra = _LAUNCHERS[match["option"]]
            return f"hydra/launcher={match['option']} needs a package: pip install 'fvit[{extra}]'"
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        return (
            f"{match['group']}={match['option']} is not an option{did_you_mean(match['option'], options)}; "
            f"known: {', '.join(options)}"
        )
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} must be given: {match[1]}=…"
    # "Could not override 'trainer.max_epoch'.\nTo append to your config use +…\nKey 'max_epoch' is not in struct …"
    if match := re.search(r"Could not override '(?P<key>[^']+)'", text):
        key = match["key"]
        if key in REMOVED:
            return f"{key} {REMOVED[key]}"
        # fvit-bench composes the models that it measures as fvit-train does.
        task = "train" if task == "bench" else task
        return f"unknown key {key}{suggest(key, task) or ';'} `fvit-{task} --cfg job` shows all keys"
    return re.sub(r"\n\s*\n", "\n", text).strip()
