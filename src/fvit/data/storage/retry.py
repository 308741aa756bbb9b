"""Retries of failed requests, and one clear error for each way that they fail."""

import errno
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from fvit.data.images import DataError
from fvit.data.storage.base import redact

log = logging.getLogger(__name__)
T = TypeVar("T")

_HTTP = "~/.netrc, user:password@ in the URL, a token in its query"
CREDENTIALS = {  # where they are looked up
    "s3": "AWS_PROFILE, AWS_ACCESS_KEY_ID …; a public bucket needs FSSPEC_S3_ANON=true",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, gcloud's own",
    "hf": "HF_TOKEN, `hf auth login`; for a gated dataset, accept its terms on its page first",
    "http": _HTTP,
    "https": _HTTP,
}
_TRANSIENT = (408, 425, 429)  # client errors that are worth a retry


class MissingError(DataError):
    """The URL does not exist."""


class DeniedError(DataError):
    """Credentials are missing or insufficient."""


@dataclass
class Retry:
    """Repeats a request of `scheme` up to `tries` times, after `pause` seconds, which double with each attempt."""

    scheme: str
    tries: int
    pause: float

    def __call__(self, url: str, request: Callable[[], T]) -> T:
        """Return what `request` returns; errors that a retry cannot fix are raised at once."""
        for attempt in range(self.tries):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                return request()
            except DataError:
                raise
            except Exception as error:  # each library has its own, with the HTTP status somewhere in it
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                status = _status(error)
                reason = f"HTTP {status}" if status else redact(" ".join(str(error).split())) or type(error).__name__
                permanent = self._permanent(url, error, status, reason)
            if permanent is not None:  # raised outside the handler: a chained error would show the URL with its secrets
                raise permanent
            log.debug("%s: %s", url, reason)
        raise DataError(f"{url}: {reason} ({self.tries} tries)")

    def _permanent(self, url: str, error: Exception, status: int | None, reason: str) -> DataError | None:
        """The error to raise if a retry cannot help."""
        no_access = isinstance(error, PermissionError) or "Credential" in type(error).__name__  # botocore, google.auth
        if status in (401, 403, 407) or (status is None and no_access):
            return DeniedError(
                f"{url}: access denied ({reason}). Credentials are looked up in {CREDENTIALS[self.scheme]}"
            )
        if status in (404, 410) or (status is None and isinstance(error, FileNotFoundError)):
            return MissingError(f"{url} does not exist")
        if status is not None and status < 500 and status not in _TRANSIENT:
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
