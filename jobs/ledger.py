"""What a job has cost and had, over all of its attempts: its account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one attempt at a job has taken of its worker so far, or several of them together.

    Work that was lost with a worker and done again counts twice: it was paid for twice.
    """

    device_seconds: float = 0.0
    """Of the worker's busy time: its share, by tokens, of each pack that it ran in, and what was done for it alone
    (tokenising, writing the adapter)."""
    tokens: int = 0
    """Trained on, prompt and completion, without padding."""
    label_tokens: int = 0
    """Those among them that have a loss."""
    padding_tokens: int = 0
    """Positions computed for nothing, on bases that cannot take rows end to end."""
    checkpoint_seconds: float = 0.0
    """From a snapshot to its durable checkpoint, beside the training."""
    round_seconds: float = 0.0
    """Wall time of the rounds in which it had something to run."""
    alone_seconds: float = 0.0
    """What its micro-batches would have taken alone, estimated from measured packs of its worker."""

    def __add__(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(Usage)})


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """A job's account. Workers tell the usage of an attempt as a sum, so hearing it twice changes nothing."""

    settled: Usage = field(default_factory=Usage)
    """Of earlier attempts."""
    attempt: int = 0
    """The one that is running, or was last heard of."""
    current: Usage = field(default_factory=Usage)
    """Of that one."""
    waiting_seconds: float = 0.0
    """In which its owner wanted it to run and it did not: waiting for a place, for another try, or for its worker."""
    waiting_since_unix_seconds: float | None = None
    """Since when it waits, on top of that; `None` where it does not."""
    began_unix_seconds: float | None = None
    """When it first ran."""
    recoveries: int = 0
    """Attempts that it lost: by an error, or with their worker. Those that were called back do not count."""

    @property
    def total(self) -> Usage:
        """Of all attempts."""
        return self.settled + self.current

    @property
    def slowdown(self) -> float | None:
        """How many times longer its rounds took than its micro-batches would have alone, estimated; `None` before the
        first pack was measured."""
        total = self.total
        return total.round_seconds / total.alone_seconds if total.alone_seconds > 0 else None

    def heard(self, attempt: int, usage: Usage) -> Ledger:
        """With what an attempt has used so far."""
        if attempt == self.attempt:
            return replace(self, current=usage)
        return replace(self, settled=self.total, attempt=attempt, current=usage)

    def waits(self, at: float) -> Ledger:
        """From now on it waits, unless it does already. Seconds since the epoch."""
        return self if self.waiting_since_unix_seconds is not None else replace(self, waiting_since_unix_seconds=at)

    def goes_on(self, at: float) -> Ledger:
        """It waits no more: it runs, is held on its owner's wish, or has ended."""
        return replace(self, waiting_seconds=self.waited(at), waiting_since_unix_seconds=None)

    def runs(self, at: float) -> Ledger:
        """It runs."""
        began = at if self.began_unix_seconds is None else self.began_unix_seconds
        return replace(self.goes_on(at), began_unix_seconds=began)

    def lost(self) -> Ledger:
        """An attempt was lost."""
        return replace(self, recoveries=self.recoveries + 1)

    def waited(self, at: float) -> float:
        """Seconds of waiting up to a moment. A clock that was set back makes nothing of them."""
        since = self.waiting_since_unix_seconds
        return self.waiting_seconds + (max(0.0, at - since) if since is not None else 0.0)

    def figures(self, at: float) -> dict[str, float | int | None]:
        """What people see of it, as of a moment."""
        total = self.total
        return {
            "device_seconds": total.device_seconds,
            "tokens": total.tokens,
            "label_tokens": total.label_tokens,
            "padding_tokens": total.padding_tokens,
            "waiting_seconds": self.waited(at),
            "checkpoint_seconds": total.checkpoint_seconds,
            "recoveries": self.recoveries,
            "slowdown": self.slowdown,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Ledger:
        """The inverse of `dataclasses.asdict`. Fields of another version are left out."""
        known = {one.name: content[one.name] for one in fields(cls) if one.name in content}
        for name in ("settled", "current"):
            if name in known:
                usage = {one.name: known[name][one.name] for one in fields(Usage) if one.name in known[name]}
                known[name] = Usage(**usage)
        return cls(**known)
