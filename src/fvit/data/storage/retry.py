"""What becomes of a request that fails: it is tried again where that may help, and told to people where not."""

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from fvit.data.images import DataError
from fvit.data.storage.base import redact

log = logging.getLogger(__name__)
T = TypeVar("T")

_CREDENTIALS = {
    "s3": "AWS_PROFILE, AWS_ACCESS_KEY_ID …; a public bucket needs FSSPEC_S3_ANON=true",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, gcloud's own",
    "hf": "HF_TOKEN, `hf auth login`; a gated data set wants its terms accepted on its page first",
    "http": "~/.netrc, user:password@ in the URL, a token in its query",
    "https": "~/.netrc, user:password@ in the URL, a token in its query",
}
_PASSING = (408, 425, 429)  # of the client errors, those that may be gone the next time


class MissingError(DataError):
    """The URL does not exist."""


class DeniedError(DataError):
    """The URL asks for credentials that were not found or do not suffice."""


class Retry:
    """Makes a request until it succeeds, with ever longer pauses.

    Args:
        scheme: of the URLs.
        tries: before it is an error.
        pause: seconds between the first two; doubled each time.
    """

    def __init__(self, scheme: str, tries: int, pause: float) -> None:
        self.tries = tries
        self.pause = pause
        self.credentials = _CREDENTIALS[scheme]

    def __call__(self, url: str, attempt: Callable[[], T]) -> T:
        """What `attempt` returns.

        Raises:
            MissingError, DeniedError: at once.
            DataError: with the URL and the reason of the last failure.
            OSError: the disk of this machine is full.
        """
        for number in range(self.tries):
            if number:
                time.sleep(self.pause * 2 ** (number - 1))
            try:
                return attempt()
            except DataError:
                raise
            except Exception as error:  # each library has its own, with the HTTP status somewhere in it
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                status = _status(error)
                reason = f"HTTP {status}" if status else redact(" ".join(str(error).split())) or type(error).__name__
                final = self._final(url, error, status, reason)
            if final is not None:  # raised out here: as its context, the error would show its URL in a traceback
                raise final
            log.debug("%s: %s", url, reason)
        raise DataError(f"{url}: {reason} ({self.tries} tries)")

    def _final(self, url: str, error: Exception, status: int | None, reason: str) -> DataError | None:
        """What to raise if trying again cannot help."""
        unnamed = isinstance(error, PermissionError) or "Credential" in type(error).__name__  # botocore, google.auth
        if status in (401, 403, 407) or (status is None and unnamed):
            return DeniedError(f"{url}: access denied ({reason}). Credentials are looked for in {self.credentials}")
        if status in (404, 410) or (status is None and isinstance(error, FileNotFoundError)):
            return MissingError(f"{url} does not exist")
        if status is not None and status < 500 and status not in _PASSING:
            return DataError(f"{url}: {reason}")
        return None


def _status(error: Exception) -> int | None:
    """The HTTP status of an error of aiohttp (status), gcsfs (code) or the Hub (response, here or in the cause)."""
    responses = (getattr(error, "response", None), getattr(error.__cause__, "response", None))
    for owner, name in ((error, "status"), (error, "code"), *((response, "status_code") for response in responses)):
        status = getattr(owner, name, None)
        if isinstance(status, int) and 400 <= status < 600:
            return status
    return None
