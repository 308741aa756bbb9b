"""Errors for people: one message that names the remedy, and a traceback only for what is our own fault."""

import difflib
import errno
import re
import traceback
from pathlib import Path

import fvit

_PACKAGE = Path(fvit.__file__).parent

# Launchers that are no part of Hydra, and the extra that brings each.
_LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"}
# Tasks whose runs have a folder that Hydra makes.
_WITH_A_FOLDER = ("train", "eval", "bench")


DISK_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the size limit (ulimit -f)",
}


class ConfigError(ValueError):
    """A configuration that cannot be; the text names each key, its value and the remedy."""


class RunError(RuntimeError):
    """A run that ended early for a reason that its text explains."""


def did_you_mean(name: str, known: list[str]) -> str:
    """', did you mean a or b?' or ''. As in `fvit.attention.registry`, which this must not import: it brings torch."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f", did you mean {' or '.join(near)}?" if near else ""


def explain(error: BaseException, task: str = "train") -> str | None:
    """The message for a user's mistake; None for anything else, which deserves its traceback.

    A mistake is: what Hydra says of an override, what our own code raises as ValueError, OSError or RunError, what
    Lightning calls a misconfiguration, and a folder that cannot be written.

    Args:
        error: what was raised.
        task: the command's name without ``fvit-``, for advice.
    """
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, OverrideParseException):
        return _explain_grammar(error.override)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_hydra(error, task)
    # Lightning's is known by its name, because it brings torch.
    if isinstance(error, RunError | ConfigError) or type(error).__name__ == "MisconfigurationException":
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    raised_here = bool(frames) and _PACKAGE in Path(frames[-1].filename).parents
    if isinstance(error, ValueError | FileNotFoundError) and raised_here:
        return str(error)
    if group := _misused_group(error):
        return group
    if isinstance(error, OSError) and error.filename is not None:
        advice = ". If the run cannot be written there, set hydra.run.dir=DIR" if task in _WITH_A_FOLDER else ""
        return f"cannot use {error.filename}: {error.strerror}{advice}"
    if isinstance(error, OSError) and error.errno in DISK_FULL:  # a file that was open already has no name
        return f"{DISK_FULL[error.errno]}: make room, and give the same command again"
    return None


def describe(error: BaseException) -> str:
    """What a record says of any error: the message for a user's mistake, the type and text of another."""
    return explain(error) or f"{type(error).__name__}: {error}"


def _misused_group(error: BaseException) -> str | None:
    """Of logger=null or attention=3, which Hydra answers with an error that does not say where."""
    from hydra.core.override_parser.types import Override

    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    override = trace and trace.tb_frame.f_locals.get("override")
    if not (isinstance(error, ValueError) and isinstance(override, Override)):
        return None
    name = override.key_or_group
    return f"{override.input_line}: {name} takes the name of one of its options, which `fvit-train --help` lists"


def _explain_grammar(override: str) -> str:
    from fvit.config.overrides import argument

    key, equals, value = override.partition("=")
    if not equals:
        return f"{override!r} is no override: write KEY=VALUE"
    advice = f"; if the value is a text or a path, write {argument(key, value)}" if value else ""
    return f"{override} cannot be read as KEY=VALUE in Hydra's grammar{advice}"


def _explain_hydra(error: BaseException, task: str) -> str:
    """Hydra's own message, with the nearest name in place of its advice to add a key that nobody reads."""
    text = str(error)
    if cause := error.__cause__:
        text += f"\n{cause}"
    # "Could not find 'attention/additiv'\n\nAvailable options in 'attention':\n\tadditive\n\t…"
    if match := re.search(r"Could not (?:find|load) '(?P<group>[\w/]+)/(?P<option>[\w.-]*)'", text):
        if match["group"] == "hydra/launcher" and match["option"] in _LAUNCHERS:
            extra = _LAUNCHERS[match["option"]]
            return f"hydra/launcher={match['option']} needs a package that is not there: pip install 'fvit[{extra}]'"
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        return (
            f"{match['group']}={match['option']} is no option{did_you_mean(match['option'], options)}; "
            f"known: {', '.join(options)}"
        )
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} must be given: {match[1]}=…"
    # "Could not override 'trainer.max_epoch'.\nTo append to your config use +…\nKey 'max_epoch' is not in struct …"
    if match := re.search(r"Could not override '(?P<key>[^']+)'", text):
        # What fvit-bench measures is composed as fvit-train composes it.
        task = "train" if task == "bench" else task
        near = _nearest_key(match["key"], task) or ";"
        return f"unknown key {match['key']}{near} `fvit-{task} --cfg job` shows all keys"
    return re.sub(r"\n\s*\n", "\n", text).strip()


def _nearest_key(key: str, task: str) -> str:
    known = _keys(task)
    *owner, word = key.split(".")
    if word in known and owner:
        return f": the chosen option of {owner[0]} has no {word}, which another one may have;"
    return did_you_mean(word, sorted(known))


def _keys(task: str) -> set[str]:
    """All keys of a task's configuration, whichever options of its groups are chosen, and the groups."""
    from fvit.config.paths import conf_dir

    words = re.compile(r"^\s*([a-z_0-9]+):", flags=re.MULTILINE)
    own = (conf_dir() / f"{task}.yaml").read_text(encoding="utf-8").partition("\nhydra:\n")[0]
    groups = {name for name in re.findall(r"^  - (\w+):", own, flags=re.MULTILINE) if (conf_dir() / name).is_dir()}
    options = [path.read_text(encoding="utf-8") for group in groups for path in (conf_dir() / group).glob("*.yaml")]
    return {word for text in (own, *options) for word in words.findall(text)} - {"defaults"} | groups
