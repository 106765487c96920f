"""Who calls, and in which queues they may act. Tokens stand in a file that nobody but its owner reads."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from jobs.errors import LoraloomError
from jobs.field_types import NAME_PATTERN
from jobs.yaml_source import read_documents

_FEWEST_CHARACTERS = 24
_MOST_BYTES = 256 * 1024
_EXAMPLE = "a list of `- {name: alice, token: …, queues: [default]}`; without queues, all of them"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whoever makes a request."""

    name: str | None = None
    """Of the token; `None` where the service has no tokens, because only its own machine reaches it."""
    queues: frozenset[str] | None = None
    """Where jobs may be submitted and steered; `None` for everywhere."""
    reads_own: bool = False
    """Whether the jobs of those queues are all that the caller may see."""

    def may_use(self, queue: str) -> bool:
        """Whether the caller may submit to a queue, and steer what is in it."""
        return self.queues is None or queue in self.queues

    @property
    def readable(self) -> frozenset[str] | None:
        """Queues whose jobs the caller may see; `None` for all."""
        return self.queues if self.reads_own else None


@dataclass(frozen=True, kw_only=True)
class _Entry:
    caller: Caller
    digest: bytes


_Identity = tuple[int, int, int, int, int]
"""Of a file, as it is now."""


class Tokens:
    """The tokens of a service, those of the file as it is now. Only their hashes are kept."""

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._seen: _Identity | None
        self._seen, self._entries = _read(path)

    @classmethod
    def read(cls, path: Path, *, warn: Callable[[str], None] = lambda _: None) -> Tokens:
        """Read a token file: YAML, a list of blocks with `name`, `token` or `token_sha256`, and perhaps `queues`
        and `read`.

        Args:
            path: Looked at again at each call, so that tokens come and go without a restart.
            warn: Told once where the file was changed to what cannot be used; the tokens before it hold until then.

        Raises:
            LoraloomError: It is missing, open to others, or not such a list.
        """
        return cls(path, warn)

    def caller(self, token: str) -> Caller | None:
        """Whose token this is. Takes the same time whichever it is, and however much of one was guessed."""
        self._look()
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        found = None
        for entry in self._entries:
            if hmac.compare_digest(digest, entry.digest):
                found = entry.caller
        return found

    def _look(self) -> None:
        try:
            seen = _identity(os.stat(self._path))
        except OSError:
            seen = None
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._seen, self._entries = _read(self._path)
        except LoraloomError as error:
            self._warn(f"{error}; the tokens that were read before go on to hold")


def _identity(found: os.stat_result) -> _Identity:
    # Beside the file's own time that of the last change of any kind, which nobody can set back.
    return (found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _read(path: Path) -> tuple[_Identity, tuple[_Entry, ...]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            found = os.fstat(stream.fileno())
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise LoraloomError(f"the token file {path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise LoraloomError(f"the token file {path} is not a file")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise LoraloomError(f"the token file {path} has mode {mode:04o}, open to others: chmod 600 {path}")
    if found.st_uid not in (os.geteuid(), 0):
        raise LoraloomError(f"the token file {path} belongs to user {found.st_uid}, who could change it: chown it")
    try:
        if len(content) > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES // 1024} KiB")
        return _identity(found), tuple(_entries(content.decode("utf-8-sig")))
    except ValueError as error:
        raise LoraloomError(f"the token file {path} cannot be used: {error}") from error


def _entries(text: str) -> list[_Entry]:
    # Values are kept out of messages: one of them may be a token.
    documents, problems = read_documents(text, file="")
    if problems:
        raise ValueError(f"line {problems[0].line}: {problems[0].message.split(':')[0]}")
    value = documents[0].value if len(documents) == 1 else None
    if not isinstance(value, list) or not value:
        raise ValueError(f"it should be {_EXAMPLE}")
    entries = [_entry(item, number) for number, item in enumerate(cast("list[object]", value), start=1)]
    for what, kinds in (
        ("name", {entry.caller.name for entry in entries}),
        ("token", {entry.digest for entry in entries}),
    ):
        if len(kinds) < len(entries):
            raise ValueError(f"two entries have the same {what}")
    return entries


def _entry(item: object, number: int) -> _Entry:
    if not isinstance(item, Mapping):
        raise ValueError(f"entry {number} should be a block; the file is {_EXAMPLE}")  # noqa: TRY004
    block = cast("Mapping[str, Any]", item)
    unknown = set(block) - {"name", "token", "token_sha256", "queues", "read"}
    if unknown:
        raise ValueError(f"entry {number} has keys that are not known; the file is {_EXAMPLE}")
    name, token, hashed, queues = (block.get(key) for key in ("name", "token", "token_sha256", "queues"))
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        raise ValueError(f"entry {number}: name should be lowercase letters, digits and dashes, at most 63")
    if (token is None) == (hashed is None):
        raise ValueError(f"entry {number}: give either token or token_sha256")
    if token is not None and (not isinstance(token, str) or len(token) < _FEWEST_CHARACTERS or not token.isascii()):
        raise ValueError(
            f"entry {number}: token should be at least {_FEWEST_CHARACTERS} ASCII characters, in quotes, such as "
            "`openssl rand -hex 24` prints"
        )
    if hashed is not None and not (isinstance(hashed, str) and re.fullmatch("[0-9a-f]{64}", hashed)):
        raise ValueError(f"entry {number}: token_sha256 should be 64 hexadecimal digits, in quotes")
    if queues is not None and not (
        isinstance(queues, list)
        and queues
        and all(isinstance(queue, str) and re.fullmatch(NAME_PATTERN, queue) for queue in cast("list[object]", queues))
    ):
        raise ValueError(f"entry {number}: queues should be a list of queue names; leave it out for all queues")
    read = block.get("read", "all")
    if read not in ("own", "all"):
        raise ValueError(f"entry {number}: read should be own (jobs of its queues) or all")
    if read == "own" and queues is None:
        raise ValueError(f"entry {number}: read: own is of queues; name them in queues")
    caller = Caller(
        name=name, queues=None if queues is None else frozenset(cast("list[str]", queues)), reads_own=read == "own"
    )
    digest = bytes.fromhex(hashed) if isinstance(hashed, str) else hashlib.sha256(str(token).encode()).digest()
    return _Entry(caller=caller, digest=digest)
