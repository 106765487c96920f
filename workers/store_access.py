"""Which stores there are, how one is opened, and what its errors mean.

`file` for a shared file system, `s3` and `gs` for object stores, `memory` for one process. Credentials and endpoints
come from where the store's own tools look for them (environment, profile, role), never from the URI: it is shown and
logged.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from enum import Enum, auto
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jobs.errors import LoraloomError

_EXTRAS = {"s3": "s3fs", "gs": "gcsfs"}
"""Scheme, which is also the name of our optional extra, → the package that it needs."""

SCHEMES = ("file", *_EXTRAS, "memory")

_S3_SETTINGS = {
    # Tried again here, by us: with the retries of the layers below on top, giving up would take minutes.
    "config_kwargs": {"connect_timeout": 10, "read_timeout": 60, "retries": {"mode": "standard", "max_attempts": 2}}
}

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


def check_uri(uri: str) -> str:
    """The URI of a store's root, without a slash at its end.

    Raises:
        LoraloomError: It is not one that can be used; says what would be right.
    """
    parts = urlsplit(uri)
    rest = f"{uri!r} cannot be the store of checkpoints and artifacts"
    if parts.scheme not in SCHEMES or "::" in uri:
        raise LoraloomError(f"{rest}: name file:///absolute/path, s3://bucket/folder or gs://bucket/folder")
    if "@" in parts.netloc or parts.query or parts.fragment:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise LoraloomError(
            f"the store {shown} must be named without credentials, query or fragment, for it is shown and logged; "
            "give credentials in the environment of the service and of its workers"
        )
    if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        raise LoraloomError(f"{rest}: a file store is an absolute path, as in file:///absolute/path")
    if parts.scheme in _EXTRAS and not parts.netloc:
        raise LoraloomError(f"{rest}: the bucket is missing, as in {parts.scheme}://bucket/folder")
    if any(part in (".", "..") for part in parts.path.split("/")):
        raise LoraloomError(f"{rest}: its path must not hold '.' or '..'")
    return uri.rstrip("/")


def is_in_process(uri: str) -> bool:
    """Whether no other process could see what is written there."""
    return urlsplit(uri).scheme == "memory"


def local_folder(uri: str) -> Path | None:
    """The folder that a `file` URI names; `None` for other stores."""
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def open_file_system(uri: str) -> tuple[Any, str]:
    """A file system of fsspec and the path of the root in it. Nothing is asked of the store yet.

    Raises:
        LoraloomError: The URI cannot be used, or the package that its scheme needs is not installed.
    """
    scheme = urlsplit(check_uri(uri)).scheme
    import fsspec

    # Listings are never taken from memory: other machines write here.
    settings: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        settings |= _S3_SETTINGS
    try:
        file_system = fsspec.filesystem(scheme, **settings)
    except ImportError as error:
        package = _EXTRAS.get(scheme)
        if package is None:
            raise
        raise LoraloomError(
            f"the store {uri} needs the package {package}, which is not installed here; "
            f"pip install 'loraloom[{scheme}]' on the head node and on every worker"
        ) from error
    folder = local_folder(uri)
    return file_system, str(folder) if folder is not None else file_system._strip_protocol(uri)


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


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _code(error: BaseException) -> str | None:
    """What the server called it, as botocore keeps it."""
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None
