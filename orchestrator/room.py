"""What a worker's jobs take, as running sums: one more job is a matter of a few additions.

`workers.memory.worker_bytes` walks over all demands; here its sums are kept, and give the same bytes (a test holds one
against the other).
"""

from __future__ import annotations

from collections.abc import Iterable

from workers.memory import BaseShape, Demand, PackLoad


class Room:
    """The jobs of a worker, added up."""

    __slots__ = ("_now", "adapter_bytes", "again", "keeps", "num_jobs")

    def __init__(self, demands: Iterable[Demand] = ()) -> None:
        self.num_jobs = 0
        self.adapter_bytes = 0
        # Tokens together, of the largest micro-batch, and the largest share of labels: of the jobs that keep their
        # activations, and of those that compute them again (gradient checkpointing). Packs hold jobs of one kind.
        self.keeps = (0, 0, 0.0)
        self.again = (0, 0, 0.0)
        self._now: tuple[BaseShape, int, int] | None = None
        for demand in demands:
            self.add(demand)

    def copy(self) -> Room:
        """Another one with the same jobs."""
        new = Room()
        new.num_jobs, new.adapter_bytes, new.keeps, new.again = (
            self.num_jobs,
            self.adapter_bytes,
            self.keeps,
            self.again,
        )
        return new

    @property
    def pack_tokens(self) -> int:
        """Tokens of a micro-batch of each job."""
        return self.keeps[0] + self.again[0]

    def add(self, demand: Demand) -> None:
        """Take a job in."""
        self._now = None
        self.num_jobs += 1
        self.adapter_bytes += demand.adapter_bytes
        if demand.checkpointing:
            self.again = _with(self.again, demand)
        else:
            self.keeps = _with(self.keeps, demand)

    def bytes_now(self, base: BaseShape, token_budget: int) -> int:
        """Predicted peak of the worker as it is; reckoned once."""
        known = self._now
        if known is None or known[0] is not base or known[1] != token_budget:
            known = self._now = (base, token_budget, self.bytes_with(base, None, token_budget))
        return known[2]

    def bytes_with(self, base: BaseShape, demand: Demand | None, token_budget: int) -> int:
        """Predicted peak of the worker, with one more job where one is given; `worker_bytes` of all of them."""
        keeps, again, adapters = self.keeps, self.again, self.adapter_bytes
        if demand is not None:
            adapters += demand.adapter_bytes
            if demand.checkpointing:
                again = _with(again, demand)
            else:
                keeps = _with(keeps, demand)
        dearest = 0
        if keeps[1]:
            dearest = base.pack_bytes(_load(keeps, token_budget, checkpointing=False))
        if again[1]:
            dearest = max(dearest, base.pack_bytes(_load(again, token_budget, checkpointing=True)))
        return base.base_bytes + adapters + dearest


def _with(sums: tuple[int, int, float], demand: Demand) -> tuple[int, int, float]:
    together, largest, labels = sums
    return (
        together + demand.worst_tokens,
        max(largest, demand.worst_tokens),
        max(labels, demand.worst_labels / demand.worst_tokens),
    )


def _load(sums: tuple[int, int, float], token_budget: int, *, checkpointing: bool) -> PackLoad:
    together, largest, labels = sums
    tokens = max(min(token_budget, together), largest)
    # Squares of lengths have no part in what shapes alone foretell.
    return PackLoad(tokens=tokens, labels=round(tokens * labels), checkpointing=checkpointing)
