"""Which files of a machine are read for jobs."""

from __future__ import annotations

import os
from dataclasses import dataclass

_NO_DATA = ("/proc", "/sys", "/dev")
"""What the kernel shows there are its own and its processes' affairs."""
_DATA_AFTER_ALL = "/dev/shm"


@dataclass(frozen=True, kw_only=True)
class FileRules:
    """Which files of a machine may be read for jobs; goes with them to whoever reads."""

    own: str | None = None
    """The service's data directory: journal, checkpoints and other people's adapters. Never read; `None` for none."""
    roots: tuple[str, ...] | None = None
    """Folders that local files must lie in; `None` for anywhere else than `own`."""
    directory: str | None = None
    """Folder that relative names are below, where they are not absolute yet: of `loraloom run`, which asks nobody."""

    @property
    def is_confined(self) -> bool:
        """Whether the files are somebody else's than the one's who asks for them, so that it matters which."""
        return self.own is not None or self.roots is not None

    def refusal(self, path: str) -> str | None:
        """Why a file may not be read; `None` where it may be. The same whether or not there is such a file.

        Args:
            path: Absolute. Links are followed as far as they lead now.
        """
        if not self.is_confined:
            return None
        try:
            real = os.path.realpath(path)
        except ValueError:
            return "cannot be the name of a file"
        if self.own is not None and any(is_within(one, self.own) for one in (real, os.path.normpath(path))):
            return "lies in the service's own data directory; keep data and models elsewhere"
        if any(is_within(real, one) for one in _NO_DATA) and not is_within(real, _DATA_AFTER_ALL):
            return "lies in a folder of the kernel's or of devices, and is no file of data; write it to a file"
        if self.roots is not None and not any(is_within(real, root) for root in self.roots):
            shown = ", ".join(self.roots)
            return f"lies outside of the folders that this service reads: {shown}; move it there (a link will not do)"
        return None

    def root_of(self, real: str) -> str:
        """The root that a path lies in, which `refusal` has let pass; the whole machine where there are no roots."""
        return max((root for root in self.roots or () if is_within(real, root)), key=len, default="/")


def is_within(path: str, folder: str) -> bool:
    """Whether a normalised path is a folder, or below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
