"""``${fvit.weights:KEY,DEFAULT}`` in conf/data/: how images were prepared for the weights from which a run starts."""

import functools
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fvit.launch.resolvers import node


def register() -> None:
    """Make it known to OmegaConf in place of the resolver of `fvit.launch.resolvers`, which knows no weights."""
    OmegaConf.register_new_resolver(
        "fvit.weights", lambda key, default, *, _root_: node(_of_weights(key, default, _root_)), replace=True
    )


def _of_weights(key: str, default: Any, root: DictConfig) -> Any:
    """As the resumed run had it, else as the weights want it, else as the dataset's configuration has it."""
    if (path := OmegaConf.select(root, "ckpt_path")) is not None:
        recorded = _recorded(_run_directory(str(path), root))
        return recorded.get(key, default) if recorded.get("name") == OmegaConf.select(root, "data.name") else default
    model = OmegaConf.select(root, "model")
    if model is None or OmegaConf.is_missing(model, "name") or not (model.get("pretrained") or model.get("init_from")):
        return default
    return _prepared_for(json.dumps(OmegaConf.to_container(model, resolve=True))).get(key, default)


def _run_directory(ckpt_path: str, root: DictConfig) -> Path:
    path = Path(root.output_dir if ckpt_path == "last" else ckpt_path).expanduser()
    return path.parent.parent if path.is_file() else path


def _recorded(run: Path) -> dict[str, Any]:
    file = run / "config.yaml"
    return OmegaConf.to_container(OmegaConf.load(file)).get("data", {}) if file.is_file() else {}


@functools.lru_cache(maxsize=1)
def _prepared_for(model: str) -> dict[str, Any]:
    # Imported here, because most runs start from random weights, and a wrong override must not wait for torch.
    from fvit.training.initial import weights_data_config

    return weights_data_config(json.loads(model))
