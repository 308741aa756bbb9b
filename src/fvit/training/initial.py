"""Where a run starts: from the weights of another run or project, and with the data configuration they had."""

import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fvit.config.legacy import migrate_checkpoint
from fvit.config.wording import count
from fvit.models import attention_spec, data_config
from fvit.models.hub import source_of
from fvit.models.start import Source
from fvit.models.weights import read_file, unwrapped, weights_in
from fvit.training.checkpoint import find, is_ours
from fvit.training.classes import counterparts

log = logging.getLogger(__name__)

_KEY = "model.init_from"


def initial_weights(path: str | Path, model: Mapping[str, Any], classes: Sequence[str] | None) -> dict[str, Any]:
    """The arguments with which `fvit.models.build` starts from the weights of another run, or of another project.

    Args:
        path: a checkpoint, a run directory (its best one), a file of weights that `fvit.models.weights` reads, or a
            folder of `fvit-export` or timm.
        model: the model arguments of `Classifier`.
        classes: of the dataset; None if they are unknown.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or holds no weights.
    """
    file = _find(path)
    content = read_file(file)
    if is_ours(content):
        migrate_checkpoint(content)
        weights, names = unwrapped(content["state_dict"]), content.get("classes")
        weights = {name.removeprefix("model."): weights[name] for name in weights if name.startswith("model.")}
        source = _source(content["hyper_parameters"], model)
    else:
        weights, _ = weights_in(content, file)
        names, source = _described(file)
    if classes and not names:
        log.warning(
            "%s records no names of classes: a head of the same size is taken in the order of its outputs", file
        )
    outputs = counterparts(classes, names) if classes and names and list(classes) != list(names) else None
    return {"weights": weights, "source": source, "outputs": outputs}


def weights_data_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """The data configuration of the weights from which a model starts, as `fvit.models.data_config`; empty if unknown.

    Args:
        model: the model options of a training configuration: `name`, and `pretrained` or `init_from`.
    """
    try:
        if model.get("pretrained"):
            return data_config(model["name"], model.get("pretrained_cfg_overlay"))
        if model.get("init_from"):
            file = _find(model["init_from"])
            return _recorded(file, file.stat().st_mtime_ns)
    except (FileNotFoundError, ValueError):
        pass  # there are no such weights, which building the model reports
    return {}


def start_facts(options: Mapping[str, Any], model: nn.Module) -> list[tuple[str, str]]:
    """Where a built `model` started, for the summary of a run; nothing for random weights."""
    if options.get("init_from") is not None:
        facts = [("start", f"{options['init_from']}: {model.weight_transfer}")]
        given, own = model.weight_transfer.depths
        if given and own and given != own:
            advice = f"model.depth={given} takes all of them"
            facts.append(("depth", f"{count(own, 'block')}, and the weights are of {given}: {advice}"))
        return facts
    if not options.get("pretrained"):
        return []
    config = model.pretrained_cfg
    name = ".".join(filter(None, [config.get("architecture"), config.get("tag")]))
    same_head = config.get("num_classes") == model.num_classes
    return [("start", f"pretrained {name}{'' if same_head else f'; a new head for {model.num_classes} classes'}")]


@functools.lru_cache(maxsize=4)
def _recorded(file: Path, modified: int) -> dict[str, Any]:
    """The data configuration with which the weights in a file were trained; of a file that changes, at some time."""
    content = read_file(file)
    if is_ours(content):
        data = content.get("datamodule_hyper_parameters", {})
        return {key: data[key] for key in ("img_size", "crop_pct", "interpolation", "mean", "std") if key in data}
    return data_config(f"local-dir:{file.parent}") if _exported(file) else {}


def _find(path: str | Path) -> Path:
    exported = Path(path).expanduser() / "model.safetensors"
    return exported if exported.is_file() else find(path, key=_KEY)


def _source(parameters: Mapping[str, Any], model: Mapping[str, Any]) -> Source | None:
    """The model of an fvit checkpoint; None if its blocks are others than those of `model`."""
    trained = parameters["model"]
    if any(trained.get(key) != model.get(key) for key in ("name", "depth", "patch_size")):
        return None
    attention = attention_spec(trained.get("attention", {"name": "native"}))
    return Source(attention, trained.get("blocks"), parameters["img_size"])


def _described(file: Path) -> tuple[list[str] | None, Source | None]:
    """The classes and the model that `fvit-export` and timm describe next to a file of weights."""
    if not (described := _exported(file)):
        return None, None
    arguments, source = described.get("model_args") or {}, None
    if described.get("architecture") == "exchanged":
        _, config, _ = source_of(f"local-dir:{file.parent}")
        source = Source(arguments["attention"], arguments.get("blocks"), tuple(config["input_size"][1:]))
    return described.get("label_names"), source


def _exported(file: Path) -> dict[str, Any]:
    config = file.with_name("config.json")
    return json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
