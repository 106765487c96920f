"""Whether the nodes of a Ray see the folder that workers write into: asked before anything trains, by a file.

Without a store workers leave checkpoints and adapters in the output or data directory. On a node that has another disk
there a job would train to its end and be published by nobody, and one that moves would not find its checkpoints.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jobs.errors import LoraloomError

_MARKER = ".node-check"


class SharedFolder:
    """A folder with a mark in it that only whoever sees this very folder can read."""

    def __init__(self, root: Path) -> None:
        """Leave the mark.

        Raises:
            LoraloomError: The folder cannot be written.
        """
        self.root = root.resolve()
        self.nonce = secrets.token_hex(16)
        try:
            (self.root / _MARKER).write_text(self.nonce, encoding="utf-8")
        except OSError as error:
            raise LoraloomError(f"{self.root} cannot be written: {error.strerror}") from error

    def problem(self, node: str, found: str) -> str:
        """What `look` found on a node, for a person, with what to do."""
        return (
            f"node {node} does not share {self.root}: {found}. Workers leave checkpoints and adapters there: put it on "
            "a disk that all nodes mount at this path, or give --storage to `loraloom serve`"
        )


def look(root: str, nonce: str) -> str | None:
    """What keeps this node from using the folder; `None` where it is the one that has the mark. Runs on the node."""
    try:
        found = Path(root, _MARKER).read_text(encoding="utf-8")
    except OSError as error:
        return f"it has no such folder, or another one there ({error.strerror})"
    if found != nonce:
        return "it has another folder there"
    mine = Path(root, f"{_MARKER}-{secrets.token_hex(8)}")
    try:
        mine.touch()
        os.unlink(mine)
    except OSError as error:
        return f"it cannot write there ({error.strerror})"
    return None


def look_first(
    root: str, nonce: str, search_path: Sequence[str], ask: Callable[..., Any], arguments: Sequence[Any]
) -> Any:
    """What a node has to offer, as `ask` finds it, or as text why it is of no use. Runs on the node."""
    sys.path.extend(entry for entry in search_path if entry not in sys.path)
    return look(root, nonce) or ask(*arguments)
