"""What the errors of stores mean, whichever library they come out of, and what is worth another try."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import TypeVar

from jobs.checkpoints import DiskFullError
from jobs.errors import StoreError, StoreUnavailableError

_DELAYS_SECONDS = (0.5, 1.0, 2.0)
"""Between tries of one request; a third of each is left to chance, so that workers do not come back in step."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_ROOM_CODES = frozenset({"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"})
"""What S3-compatible servers say: Ceph, MinIO."""
_LASTING = frozenset(
    {errno.EINVAL, errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE}
)
_PASSING_CODES = frozenset({"BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch"})
"""Of a request that was damaged on its way."""
_NO_CREDENTIALS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "TokenRetrievalError",
        "UnauthorizedSSOTokenError",
        "DefaultCredentialsError",
        "RefreshError",
    }
)
"""Classes of botocore and google-auth, by name: neither need be installed."""
_INVALID = frozenset(
    {"ParamValidationError", "InvalidRegionError", "NoRegionError", "InvalidEndpointDiscoveryConfiguration"}
)
_LIBRARIES = ("fsspec", "s3fs", "gcsfs", "botocore", "aiobotocore", "aiohttp", "google", "requests", "urllib3", "ssl")
_REFUSED_STATUSES = frozenset({400, 401, 403, 405, 412})

Result = TypeVar("Result")


class Trouble(Enum):
    """What an error of a store means."""

    MISSING = auto()
    """No such object, folder or bucket."""
    TAKEN = auto()
    """Something is there already."""
    NO_ROOM = auto()
    NO_CREDENTIALS = auto()
    REFUSED = auto()
    """And would be the next time."""
    PASSING = auto()
    """Worth another try."""
    NOT_ITS_OWN = auto()
    """An error of our own code."""


def trouble(error: BaseException) -> Trouble:
    """What an error that came out of a store means."""
    chain = list(_chain(error))
    codes = {code for one in chain if (code := _code(one)) is not None}
    if any(type(one).__name__ in _NO_CREDENTIALS for one in chain):
        return Trouble.NO_CREDENTIALS
    if any(type(one).__name__ in _INVALID for one in chain):
        return Trouble.REFUSED
    if codes & _NO_ROOM_CODES:
        return Trouble.NO_ROOM
    if codes & _PASSING_CODES:
        return Trouble.PASSING
    match error:
        case FileNotFoundError():
            return Trouble.MISSING
        case FileExistsError():
            return Trouble.TAKEN
        case TimeoutError() | ConnectionError():
            return Trouble.PASSING
        case PermissionError() | IsADirectoryError() | NotADirectoryError():
            return Trouble.REFUSED
        case OSError():
            if error.errno in _NO_ROOM:
                return Trouble.NO_ROOM
            return Trouble.REFUSED if error.errno in _LASTING else Trouble.PASSING
    if type(error).__module__.split(".")[0] in _LIBRARIES:
        status = getattr(error, "code", None)
        if status == 404:
            return Trouble.MISSING
        return Trouble.REFUSED if status in _REFUSED_STATUSES else Trouble.PASSING
    return Trouble.NOT_ITS_OWN


def persist(action: Callable[[], Result], where: str, *, root: str, sleep: Callable[[float], None]) -> Result:
    """Make a request, again if it fails in a way that may pass, some seconds long.

    Args:
        action: One request.
        where: URI of what it is about.
        root: URI of the store.
        sleep: Waits between two tries.

    Raises:
        StoreUnavailableError: It did not pass.
        StoreError: The store refuses, and the message says what has to be mended.
        FileNotFoundError: Nothing is there; for the caller to judge.
        FileExistsError: Something is.
        OSError: No room (ENOSPC).
    """
    for delay in (*_DELAYS_SECONDS, None):
        try:
            return action()
        except (StoreError, DiskFullError):
            raise
        except Exception as error:
            match trouble(error):
                case Trouble.PASSING if delay is not None:
                    pass
                case Trouble.PASSING:
                    tries = len(_DELAYS_SECONDS) + 1
                    raise StoreUnavailableError(
                        where, f"cannot be reached, after {tries} tries: {told(error)}"
                    ) from error
                case Trouble.NO_CREDENTIALS:
                    raise StoreError(
                        where,
                        f"no credentials for it here ({told(error)}); give them to the service and to its workers in "
                        "their environment, as a profile, or as the machine's role",
                    ) from error
                case Trouble.REFUSED:
                    raise StoreError(
                        where,
                        f"refused: {told(error)}; listing, reading, writing and deleting below {root} must be allowed",
                    ) from error
                case Trouble.NO_ROOM:
                    raise OSError(errno.ENOSPC, told(error)) from error
                case _:
                    raise
        sleep(delay * random.uniform(2 / 3, 4 / 3))
    raise AssertionError("the last try returns or raises")


def told(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _code(error: BaseException) -> str | None:
    """What the server called it, as botocore keeps it."""
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None
