"""Where weights lie: known to timm, in a folder or on the Hugging Face hub, refused at once if that is out of reach."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from timm.models import _hub, parse_model_name
from timm.models._hub import HF_SAFE_WEIGHTS_NAME

from fvit.models.spec import as_config

_SECONDS = 5.0  # for the first answer; the hub's own client tries again for more than a minute


def source_of(name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What a name with a source stands for, ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER``, or one that timm knows.

    Returns:
        timm's name of the architecture, its `pretrained_cfg`, and the arguments with which the model was built.

    Raises:
        ValueError: the hub cannot be reached, or there is no such model.
    """
    try:
        source, model_id = parse_model_name(name)
    except ValueError as error:
        raise ValueError(f"unknown model '{name}': {error}") from error
    if source is None:
        try:
            config = timm.get_pretrained_cfg(name)
        except RuntimeError as error:  # a wrong tag
            tags = ", ".join(sorted(timm.list_pretrained(f"{name.partition('.')[0]}.*")))
            raise ValueError(f"timm has no weights {name}; it has {tags or 'none of this model'}") from error
        return name, config.to_dict() if config else {}, {}
    try:
        with impatient():
            read = _hub.load_model_config_from_hf if source == "hf-hub" else _hub.load_model_config_from_path
            config, architecture, arguments = read(model_id)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"there is no model {name}: {' '.join(str(error).split())[:300]}") from error
    return architecture, config, arguments


@contextmanager
def impatient(library: ModuleType = _hub) -> Iterator[None]:
    """In its body, timm fetches from the hub what is in the cache or on a hub that answers, and tries nothing else.

    timm has no option for it, and the hub's client repeats a first request for more than a minute.

    Args:
        library: the module with the `hf_hub_download` of another library than timm.

    Raises:
        ConnectionError: in its body, where a file is neither; the message is one line.
    """
    fetch = library.hf_hub_download

    def fetch_if_reachable(repo_id: str, filename: str, **options: Any) -> str:
        check_reachable(repo_id, filename, options.get("revision"))
        return fetch(repo_id, filename=filename, **options)

    library.hf_hub_download = fetch_if_reachable
    try:
        yield
    finally:
        library.hf_hub_download = fetch


def check_reachable(repository: str, filename: str, revision: str | None = None) -> None:
    """Raise ConnectionError if a file is not in the cache and the hub does not answer."""
    if isinstance(try_to_load_from_cache(repository, filename, revision=revision), str):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, filename, revision=revision), timeout=_SECONDS)
    except Exception as error:  # of whichever HTTP client the hub uses
        if getattr(error, "response", None) is not None:
            return  # an answer: what is missing or forbidden, the client will say
        raise ConnectionError(
            f"{repository} is not in the cache ({constants.HF_HUB_CACHE}), and {constants.ENDPOINT} cannot be reached "
            f"({type(error).__name__})"
        ) from error


def resolved(model: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` options of `fvit.training.Classifier`, so that a checkpoint with them needs neither hub nor folder.

    A name with a source becomes that of its architecture, with the arguments that are recorded there; a folder that
    `fvit-export` wrote for exchanged attention becomes `init_from`.
    """
    if ":" not in model["name"]:
        return dict(model)
    architecture, config, recorded = source_of(model["name"])
    arguments = {key: value for key, value in recorded.items() if key not in ("img_size", "num_classes", "in_chans")}
    if architecture != "exchanged":
        overlay = {**config, **(model.get("pretrained_cfg_overlay") or {})}
        found = {**arguments, **model, "name": architecture}
        return found | ({"pretrained_cfg_overlay": overlay} if model.get("pretrained") else {})
    attention = arguments.pop("attention", "additive")
    own = {"attention": as_config(attention), "blocks": arguments.pop("blocks", None)}
    found = {**arguments, **model, "name": arguments.pop("host", "vit_tiny_patch16_224")}
    found.pop("host", None)
    if model.get("attention", {"name": "native"})["name"] == "native":
        found |= own
    if model.get("pretrained"):
        found |= {"pretrained": False, "init_from": str(_weights_file(config))}
    return found


def _weights_file(config: Mapping[str, Any]) -> Path:
    if config["source"] == "local-dir":
        return Path(config["file"]) / HF_SAFE_WEIGHTS_NAME
    with impatient():
        return Path(_hub.download_from_hf(config["hf_hub_id"], HF_SAFE_WEIGHTS_NAME))
