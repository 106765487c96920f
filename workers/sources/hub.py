"""Datasets of the Hugging Face hub: what files they hold, and the files themselves."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jobs.errors import DataError

_REPOSITORY = re.compile(r"(?:hf://datasets/)?([\w.-]+(?:/[\w.-]+)?)")
_TIMEOUT_SECONDS = 100.0


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of a hub dataset at one commit."""

    repository: str
    commit: str
    name: str

    def download(self) -> str:
        """The path of the file in the hub's cache, which asks the hub only once.

        Raises:
            DataError: The hub does not give it, or the cache cannot be written.
        """
        from huggingface_hub import constants, hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return hf_hub_download(self.repository, self.name, repo_type="dataset", revision=self.commit)
        except (HfHubHTTPError, LocalEntryNotFoundError) as error:
            raise DataError(
                f"{self.repository}/{self.name} cannot be fetched from the hub: {_reason(error)}"
            ) from error
        except OSError as error:
            raise DataError(
                f"{self.repository}/{self.name} cannot be put into the cache {constants.HF_HUB_CACHE}: "
                f"{error.strerror or error}; set HF_HUB_CACHE to a folder that can be written"
            ) from error

    def open(self) -> BinaryIO:
        """The bytes of the file, from the hub's cache.

        Raises:
            DataError: As `download`.
        """
        return Path(self.download()).open("rb")


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """A dataset of the hub at one commit."""

    repository: str
    commit: str
    names: tuple[str, ...]
    """All its files."""

    def file(self, name: str) -> HubFile:
        """One of them."""
        return HubFile(repository=self.repository, commit=self.commit, name=name)


def repository_of(path: str) -> str | None:
    """The repository that a dataset's `path` names, if it has the form of one."""
    match = _REPOSITORY.fullmatch(path)
    return match[1] if match else None


def find(repository: str, revision: str | None, field: str) -> HubDataset:
    """Ask the hub for a dataset.

    Raises:
        DataError: There is none of that name or revision, it may not be read, or the hub cannot be reached.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().dataset_info(repository, revision=revision, timeout=_TIMEOUT_SECONDS)
    except GatedRepoError as error:
        raise DataError(f"{repository} is gated: ask for access on its page, and set HF_TOKEN", field=field) from error
    except RevisionNotFoundError as error:
        raise DataError(f"{repository} has no revision {revision}", field=f"{field}.revision") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise DataError(
            f"{repository} is neither a file or folder here nor a dataset on the hub that can be read: give a path "
            "that exists, or set HF_TOKEN if it is private",
            field=field,
        ) from error
    except (OfflineModeIsEnabled, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise DataError(
            f"{repository} is no file or folder here, and the hub cannot be asked for it: {_reason(error)}", field=field
        ) from error
    if info.sha is None:
        raise DataError(f"the hub does not say of which commit {repository} is", field=field)
    names = tuple(sorted(sibling.rfilename for sibling in info.siblings or ()))
    return HubDataset(repository=repository, commit=info.sha, names=names)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
