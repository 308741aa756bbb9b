"""Whether a W&B server is there and takes our key, within seconds."""

import threading
import urllib.error
import urllib.request

_PATIENCE = 5.0  # seconds


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
        if answers(url):
            raise ConnectionError(f"{url} does not take the API key ({error})") from error
        raise ConnectionError(f"{url} does not answer") from error
    if not answers(url):  # a key that was taken before is not looked at again
        raise ConnectionError(f"{url} does not answer")
    return True


def answers(url: str) -> bool:
    """Whether anything answers there; a name that is looked up in vain may take longer than any time-out."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(_ask(url)), daemon=True)
    thread.start()
    thread.join(_PATIENCE + 1)
    return found == [True]


def _ask(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=_PATIENCE).close()
    except urllib.error.HTTPError:  # an answer, if not a friendly one
        return True
    except OSError:
        return False
    return True
