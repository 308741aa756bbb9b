"""Whether W&B is to be asked, and whether its server is there and takes our key, within seconds."""

import os
import threading
import urllib.error
import urllib.request

from fvit.config.errors import ConfigError

_MODES = ("online", "offline", "disabled")
_ALIASES = {"dryrun": "offline", "run": "online"}  # W&B's old names
_PATIENCE = 5.0  # seconds


def asked_mode() -> str:
    """Whether W&B is asked to be ``online``, ``offline`` or ``disabled``.

    Raises:
        ConfigError: it is asked to be something else.
    """
    import wandb

    # What `wandb offline` has set for the folder is no variable.
    mode = os.environ.get("WANDB_MODE") or wandb.setup().settings.mode
    mode = _ALIASES.get(mode, mode)
    if mode not in _MODES:  # wandb's "shared" is for several processes that write one run
        raise ConfigError(f"WANDB_MODE={mode} must be {', '.join(_MODES[:-1])} or {_MODES[-1]}")
    return mode


def has_key() -> bool:
    """Whether W&B finds a key (environment, netrc) that the server takes; without one nobody is asked anything.

    Raises:
        ConnectionError: the server does not answer, or does not take the key; the text says which.
    """
    import wandb

    url = wandb.setup().settings.base_url
    try:
        # Waits for 10 seconds at most, while `wandb.init` would try for a minute and a half.
        if not wandb.login(prompt=False, verify=True):
            return False
    except wandb.errors.Error as error:
        if reachable(url):
            raise ConnectionError(f"{url} does not take the API key ({error})") from error
        raise ConnectionError(f"{url} does not answer") from error
    if not reachable(url):  # a key that was taken before is not looked at again
        raise ConnectionError(f"{url} does not answer")
    return True


def first_line(error: Exception) -> str:
    """The first line of an error's text; W&B's have many."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def reachable(url: str) -> bool:
    """Whether a server answers there, and not a proxy or gateway in its stead (HTTP 5xx).

    A thread asks, since looking up a name in vain may take longer than any time-out.
    """
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(_ask(url)), daemon=True)
    thread.start()
    thread.join(_PATIENCE + 1)
    return found == [True]


def _ask(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=_PATIENCE).close()
    except urllib.error.HTTPError as error:  # an answer, if not a friendly one
        return error.code < 500
    except OSError:
        return False
    return True
