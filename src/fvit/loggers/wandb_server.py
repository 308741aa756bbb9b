"""Whether a W&B server takes our runs, decided within seconds."""

import os
import threading
import urllib.error
import urllib.request

from fvit.config.errors import ConfigError

_MODES = ("online", "offline", "disabled")
_ALIASES = {"dryrun": "offline", "run": "online"}  # old names that W&B still accepts
_TIMEOUT = 5.0  # seconds


def choose_mode() -> tuple[str, str]:
    """``online``, ``offline`` or ``disabled``, and why it is not ``online``; takes at most 16 seconds.

    Without an API key no server is contacted.

    Raises:
        ConfigError: WANDB_MODE is something else.
    """
    import wandb

    settings = wandb.setup().settings  # includes the mode that `wandb offline` sets for the working directory
    mode = os.environ.get("WANDB_MODE") or settings.mode
    mode = _ALIASES.get(mode, mode)
    if mode not in _MODES:  # "shared" is for several processes that write one run
        raise ConfigError(f"WANDB_MODE={mode} must be {', '.join(_MODES[:-1])} or {_MODES[-1]}")
    if mode != "online":
        return mode, f"W&B's mode is {mode}"
    try:
        # Waits for at most 10 seconds, whereas `wandb.init` would retry for a minute and a half.
        if not wandb.login(prompt=False, verify=True):
            return "offline", "no API key"
    except wandb.errors.Error as error:
        if reachable(settings.base_url):
            return "offline", f"{settings.base_url} does not accept the API key ({error})"
        return "offline", f"{settings.base_url} does not answer"
    if not reachable(settings.base_url):  # W&B does not verify a key twice in one process
        return "offline", f"{settings.base_url} does not answer"
    return "online", ""


def reachable(url: str) -> bool:
    """Whether a server answers at `url`, rather than a proxy or gateway in front of it (HTTP 5xx)."""
    answers: list[bool] = []
    # In a thread, because resolving a host name may take longer than any timeout.
    thread = threading.Thread(target=lambda: answers.append(_answers(url)), daemon=True)
    thread.start()
    thread.join(_TIMEOUT + 1)
    return answers == [True]


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=_TIMEOUT).close()
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True
