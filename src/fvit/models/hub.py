"""Weights on the Hugging Face hub: found in the cache, or refused at once where the hub cannot be reached."""

import timm
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from timm.models import load_model_config_from_hf, parse_model_name
from timm.models._hub import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME, hf_split, load_model_config_from_path

_SECONDS = 5.0  # for the first answer; the hub's own client tries again for more than a minute


def source_of(name: str) -> tuple[str, dict, dict]:
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
    if source == "hf-hub":
        check_reachable(model_id, "config.json")
    read = load_model_config_from_hf if source == "hf-hub" else load_model_config_from_path
    try:
        config, architecture, arguments = read(model_id)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model.name={name}: there is no such model ({' '.join(str(error).split())[:200]})") from error
    return architecture, config, arguments


def check_reachable(model_id: str, *files: str) -> None:
    """Check that one of a repository's files is in the cache, or that the hub answers.

    Raises:
        ValueError: neither; the message is one line.
    """
    repository, revision = hf_split(model_id)
    files = files or (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    if any(isinstance(try_to_load_from_cache(repository, file, revision=revision), str) for file in files):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repository, files[0], revision=revision), timeout=_SECONDS)
    except Exception as error:  # of whichever HTTP client the hub uses
        if getattr(error, "response", None) is not None:
            return  # an answer: what is missing or forbidden, timm's own request will say
        raise ValueError(
            f"{repository} is not in the cache ({constants.HF_HUB_CACHE}), and {constants.ENDPOINT} cannot be reached "
            f"({type(error).__name__})"
        ) from error
