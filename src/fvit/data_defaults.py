"""What a configuration takes from the weights from which a run starts.

``${fvit.weights:KEY,DEFAULT}`` in conf/data/ is how images were prepared for them, ``${fvit.mechanism:}`` in titles the
attention that they were saved with.
"""

import functools
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fvit.launch.resolvers import mechanism, node


def register() -> None:
    """Make them known to OmegaConf in place of the resolvers of `fvit.launch.resolvers`, which know no weights."""
    OmegaConf.register_new_resolver(
        "fvit.weights", lambda key, default, *, _root_: node(_of_weights(key, default, _root_)), replace=True
    )
    OmegaConf.register_new_resolver("fvit.mechanism", lambda *, _root_: mechanism(_attention(_root_)), replace=True)


def _of_weights(key: str, default: Any, root: DictConfig) -> Any:
    """As the resumed run had it, else as the weights want it, else as the dataset's configuration has it."""
    if recorded := _recorded(root, "data"):
        return recorded.get(key, default) if recorded.get("name") == OmegaConf.select(root, "data.name") else default
    model = OmegaConf.select(root, "model")
    if model is None or OmegaConf.is_missing(model, "name") or not (model.get("pretrained") or model.get("init_from")):
        return default
    return _prepared_for(json.dumps(OmegaConf.to_container(model, resolve=True))).get(key, default)


def _attention(root: DictConfig) -> Any:
    """``model.attention`` or, if that is native, what a model from a folder or a hub was saved with."""
    name, own = OmegaConf.select(root, "model.name"), OmegaConf.select(root, "model.attention.name")
    if name is None or ":" not in name or own != "native":
        return OmegaConf.select(root, "model.attention")
    recorded = _recorded(root, "model")
    return recorded["attention"] if recorded.get("origin") == name else _saved_with(name)


def _recorded(root: DictConfig, group: str) -> dict[str, Any]:
    """A part of the configuration of the run that ``ckpt_path`` resumes; empty if there is none."""
    if (ckpt_path := OmegaConf.select(root, "ckpt_path")) is None:
        return {}
    path = Path(root.output_dir if ckpt_path == "last" else str(ckpt_path)).expanduser()
    file = (path.parent.parent if path.is_file() else path) / "config.yaml"
    return OmegaConf.to_container(OmegaConf.load(file)).get(group, {}) if file.is_file() else {}


@functools.lru_cache(maxsize=1)
def _prepared_for(model: str) -> dict[str, Any]:
    # Imported here, because most runs start from random weights, and a wrong override must not wait for torch.
    from fvit.training.initial import weights_data_config

    return weights_data_config(json.loads(model))


def _saved_with(name: str) -> dict[str, Any]:
    from fvit.models.hub import resolved

    try:
        return resolved({"name": name}).get("attention", {"name": "native"})
    except ValueError:  # there is no such model, which building it reports
        return {"name": "native"}
