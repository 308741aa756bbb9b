"""Sharing an exported model on the Hugging Face Hub."""

from pathlib import Path
from typing import NamedTuple


class Push(NamedTuple):
    """What became of a folder.

    Attributes:
        url: of the model, where it is or would be.
        pushed: False if there was no token, and so nothing was sent.
    """

    url: str
    pushed: bool


def check_name(repository: str) -> None:
    """Check the name of a model on the Hub.

    Raises:
        ValueError: it is none.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(f"push={repository} is no name of a model on the Hub: {error}") from None
    if repository.count("/") != 1:
        raise ValueError(f"push={repository} must be USER/NAME, with your name on the Hub or that of an organisation")


def push(folder: Path, repository: str, private: bool, message: str) -> Push:
    """Upload a folder as one commit to a model on the Hub, which is created if it does not exist.

    The token is that of HF_TOKEN or ``hf auth login``.

    Args:
        folder: what to upload.
        repository: ``USER/NAME``.
        private: whether a new model is private; an existing one stays as it is.
        message: of the commit.

    Raises:
        ValueError: the Hub does not accept the token or the name, or cannot be reached.
    """
    from huggingface_hub import HfApi, get_token

    api = HfApi()
    url = f"{api.endpoint}/{repository}"
    if get_token() is None:
        return Push(url, pushed=False)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    except Exception as error:  # of whichever HTTP client the Hub's has
        status = getattr(getattr(error, "response", None), "status_code", None)
        known = {401: "it does not accept the token", 403: f"the token may not write to {repository}"}
        reason = known.get(status) or getattr(error, "server_message", None) or f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{folder} is complete, but {api.endpoint} did not take it: {' '.join(reason.split())[:300]}. "
            f"Send it later with: hf upload {repository} {folder}"
        ) from error
    return Push(url, pushed=True)
