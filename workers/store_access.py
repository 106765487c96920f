"""Which stores there are, and how one is opened.

`file` for a shared file system, `s3` and `gs` for object stores, `memory` for one process. Credentials and endpoints
come from where the store's own tools look for them (environment, profile, role), never from the URI: it is shown and
logged.
"""

from __future__ import annotations

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
