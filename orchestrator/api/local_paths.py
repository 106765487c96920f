"""Which files of its own machine a service lets a spec name: never its own, and where it is told so, only some.

Here it is decided, once, whether a name is a file or on the hub: see `jobs.local_files`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.data_formats import BUILDERS
from jobs.errors import Problem, SpecError
from jobs.file_rules import FileRules
from jobs.loading import LoadedSpec, locate
from jobs.local_files import Place, is_hub_name, is_remote, places, scheme_of
from jobs.shown import shown_value
from jobs.spec import JobSpec

_LOCAL_SCHEMES = ("file", "local")


@dataclass(frozen=True, kw_only=True)
class LocalPaths:
    """The rules."""

    own: Path
    """The service's data directory: journal, checkpoints and other people's adapters."""
    roots: Sequence[Path] | None
    """Folders that local files must lie in; `None` for anywhere else than `own`."""

    @property
    def rules(self) -> FileRules:
        """For those who read the files."""
        roots = None if self.roots is None else tuple(os.path.realpath(root) for root in self.roots)
        return FileRules(own=os.path.realpath(self.own), roots=roots)

    def settle(self, loaded: Sequence[LoadedSpec], *, directory: str | None) -> list[JobSpec]:
        """The specs with every local path made absolute; what is not absolute then is no local path.

        Args:
            loaded: As they were submitted.
            directory: Where the submitter stands; relative paths are below it.

        Raises:
            SpecError: A path is relative without a directory, or leads to where it may not.
        """
        settling = _Settling(self.rules, directory)
        problems: list[Problem] = []
        specs: list[JobSpec] = []
        for one in loaded:
            document: dict[str, Any] = one.spec.model_dump(mode="json")
            changed = False
            for place in places(document):
                settled = settling.settled(place)
                if isinstance(settled, Problem):
                    found = replace(settled, field=place.field, value=shown_value(place.text))
                    problems.append(locate(found, one))
                elif settled != place.text:
                    place.block[place.key] = settled
                    changed = True
            specs.append(JobSpec.model_validate(document) if changed else one.spec)
        if problems:
            raise SpecError(list(dict.fromkeys(problems))[:100])
        return specs


@dataclass(frozen=True)
class _Settling:
    """One submission."""

    rules: FileRules
    directory: str | None

    def settled(self, place: Place) -> str | Problem:
        """A name in the form in which it is kept, or why it is refused."""
        text, scheme = place.text, scheme_of(place.text)
        if place.kind == "data" and text in BUILDERS:
            return text
        if scheme in _LOCAL_SCHEMES:
            path = text[len(scheme) + len("://") :]
            settled = self._local(path)
            # Whoever publishes takes URLs, whoever reads takes files.
            return f"{scheme}://{settled}" if place.kind == "output" and isinstance(settled, str) else settled
        if scheme:
            return self._remote(place)
        if place.kind == "files" and place.source["path"] not in BUILDERS:
            return self._within_set(text, place.source["path"])
        if place.kind not in ("output", "files") and is_hub_name(text):
            return self._folder_of(text) or text
        if not text.startswith((".", "~", "/")) and ".." in text.split("/"):
            return Problem(message="leads out of where it begins; write an absolute path")
        return self._local(text)

    def _remote(self, place: Place) -> str | Problem:
        if place.kind in ("model", "template"):
            return Problem(message="is a URL; write a folder's path, or a name on the hub such as `organisation/name`")
        # What a store takes for publishing is the store's to say.
        if place.kind == "output" or is_remote(place.text):
            return place.text
        return Problem(message="is no URL that is read; write a file's path, or a hub data set as `organisation/name`")

    def _within_set(self, text: str, source: str) -> str | Problem:
        """Files of a folder, or of a data set on the hub."""
        if ".." in text.split("/"):
            return Problem(message="leads out of its data set; name files below it")
        if os.path.isabs(source):
            # Of a folder, files are named from there.
            return self._local(text) if os.path.isabs(text) else text
        if os.path.isabs(text) or text.startswith("~") or "::" in text:
            return Problem(
                message="names a file of this machine in a data set of the hub; name files of that, or take the "
                "format as path, as in `path: csv`"
            )
        return text

    def _folder_of(self, name: str) -> str | None:
        """The file or folder that a hub name is where the submitter stands, if it may be read: as in `run`."""
        if self.directory is None:
            return None
        path = os.path.normpath(os.path.join(self.directory, name))
        return path if self.rules.refusal(path) is None and os.path.exists(path) else None

    def _local(self, path: str) -> str | Problem:
        if "::" in path:
            return Problem(message="`::` would name a file within a file; name the file itself, unpacked")
        if not os.path.isabs(path):
            if path.startswith("~"):
                return Problem(message="`~` means another folder to the service; write an absolute path")
            if self.directory is None:
                return Problem(
                    message="a relative path means nothing to the service; write an absolute one, or say with "
                    "`directory` what it is relative to, as the command line does"
                )
            path = os.path.join(self.directory, path)
        # Two leading slashes stay two.
        path = "/" + os.path.normpath(path).lstrip("/")
        refused = self.rules.refusal(path)
        return path if refused is None else Problem(message=refused)
