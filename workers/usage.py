"""What each job takes of its worker: its account while it is here.

Every stretch of the worker's busy time is charged to somebody: to the jobs of a pack by their tokens, to one job what
is done for it alone. So the sum over jobs is the worker's busy time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from jobs.ledger import Usage
from workers.batcher import Kind
from workers.pack_times import PackTimes


@dataclass
class _Account:
    """Of one attempt."""

    usage: Usage = field(default_factory=Usage)
    micro_batches: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))
    tokens: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(Kind, 0))


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A job's micro-batch that was run."""

    job_id: str
    kind: Kind
    tokens: int
    labels: int
    padding: int


class Accounts:
    """Accounts of the jobs that are here, by job id."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self.times = PackTimes()
        self.charged_seconds = 0.0
        """To all jobs that ever were here."""
        self._now = now
        self._mark = now()
        self._accounts: dict[str, _Account] = {}

    def start(self) -> None:
        """The worker is busy from here on."""
        self._mark = self._now()

    def charge(self, tokens: Mapping[str, int]) -> None:
        """Share the time since the last charge between jobs; where there are none, the worker was not busy.

        Args:
            tokens: By job id, what each of them had in it.
        """
        now = self._now()
        seconds, self._mark = now - self._mark, now
        if not tokens:
            return
        self.charged_seconds += seconds
        total = sum(tokens.values())
        for job_id, own in tokens.items():
            self._add(job_id, device_seconds=seconds * own / total)

    def ran(self, micro_batches: Collection[Ran]) -> None:
        """Micro-batches have come to their end."""
        for one in micro_batches:
            account = self._account(one.job_id)
            account.micro_batches[one.kind] += 1
            account.tokens[one.kind] += one.tokens
            if one.kind is Kind.TRAIN:
                self._add(one.job_id, tokens=one.tokens, label_tokens=one.labels, padding_tokens=one.padding)

    def round_took(self, job_ids: Collection[str], seconds: float) -> None:
        """A round is over in which these jobs had something to run."""
        for job_id in job_ids:
            self._add(job_id, round_seconds=seconds)

    def saved(self, job_id: str, seconds: float) -> None:
        """A checkpoint was written."""
        self._add(job_id, checkpoint_seconds=seconds)

    def usage(self, job_id: str) -> Usage:
        """Of the job's attempt so far."""
        account = self._account(job_id)
        alone = sum(self.times.alone_seconds(kind, account.micro_batches[kind], account.tokens[kind]) for kind in Kind)
        return replace(account.usage, alone_seconds=alone)

    def last_usage(self, job_id: str) -> Usage | None:
        """The same; `None` for a job of which the last was told."""
        return self.usage(job_id) if job_id in self._accounts else None

    def begin(self, job_id: str) -> None:
        """A new attempt at a job comes here."""
        self._accounts[job_id] = _Account()

    def keep_only(self, job_ids: Collection[str]) -> None:
        """Drop the accounts of all others: the last of them was told."""
        for job_id in list(self._accounts):
            if job_id not in job_ids:
                self._accounts.pop(job_id, None)

    def _account(self, job_id: str) -> _Account:
        return self._accounts.setdefault(job_id, _Account())

    def _add(self, job_id: str, **amounts: float) -> None:
        account = self._account(job_id)
        sums = {name: getattr(account.usage, name) + amount for name, amount in amounts.items()}
        account.usage = replace(account.usage, **sums)
