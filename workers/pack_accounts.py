"""What packs come to: the totals of a worker, and what each job is charged with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.records import StepReport
from workers.batcher import Kind
from workers.flops import AdapterCost, FlopCount, FlopLoad
from workers.pack_runner import Member, Slice, Taken, Wave
from workers.usage import Accounts, Ran


@dataclass
class Totals:
    """What all packs of a worker came to."""

    tokens: int = 0
    """Trained on."""
    label_tokens: int = 0
    """Those among them that have a loss."""
    padding_tokens: int = 0
    steps: int = 0
    pack_tokens: int = 0
    """Of shared packs, also of evaluations."""
    pack_room: int = 0
    """That those packs had."""
    flops: float = 0.0


class PackAccounts:
    """Counts packs, and charges their jobs with them."""

    def __init__(self, accounts: Accounts, flops: FlopCount, *, token_budget: int, is_padded: bool) -> None:
        """Charge the jobs of `accounts`.

        Args:
            accounts: Of the jobs of a worker.
            flops: Counts what packs need.
            token_budget: Tokens that a pack of several jobs may hold.
            is_padded: Whether rows are brought to one length.
        """
        self.totals = Totals()
        self._accounts = accounts
        self._flops = flops
        self._token_budget = token_budget
        self._is_padded = is_padded
        self._costs: dict[str, AdapterCost] = {}

    def add(
        self, pack: Sequence[Member], wave: Wave, taken: Sequence[Taken], seconds: float, *, disturbed: bool
    ) -> None:
        """Count a pack, whose members are of one kind; a job whose micro-batch broke has had the device as well.

        Args:
            pack: Its members.
            wave: How their rows were spread over lanes.
            taken: Those that came through.
            seconds: That it took.
            disturbed: Whether that time says nothing of other packs: it was measured, or some of it broke.
        """
        kind, totals = pack[0].work.kind, self.totals
        assert all(member.work.kind is kind for member in pack), "a pack holds one kind of work"
        padding = _padding(wave) if self._is_padded else {}
        done = [
            Ran(
                job_id=one.member.run.job_id,
                kind=kind,
                tokens=one.member.work.batch.num_tokens,
                labels=one.member.work.batch.num_labels,
                padding=padding.get(one.member.run.job_id, 0),
            )
            for one in taken
        ]
        tokens = {member.run.job_id: member.work.batch.num_tokens for member in pack}
        self._accounts.charge(tokens)
        self._accounts.ran(done)
        self._accounts.times.add(kind, sum(tokens.values()), seconds, disturbed=disturbed)
        if not pack[0].is_exclusive:
            totals.pack_tokens += sum(tokens.values())
            # A micro-batch that is larger than the budget runs by itself, and fills its pack.
            totals.pack_room += max(self._token_budget, sum(tokens.values()))
        if kind is Kind.TRAIN:
            totals.tokens += sum(one.tokens for one in done)
            totals.label_tokens += sum(one.labels for one in done)
            totals.padding_tokens += sum(one.padding for one in done)
            totals.steps += sum(isinstance(one.report, StepReport) for one in taken)
        if not disturbed or len(taken) == len(pack):
            totals.flops += sum(self._flops.pack(kind, [self._flop_load(piece) for piece in lane]) for lane in wave)

    def forget(self, job_id: str) -> None:
        """Drop what is kept for a job."""
        self._costs.pop(job_id, None)

    def _flop_load(self, piece: Slice) -> FlopLoad:
        run, lengths, rows = piece.member.run, _lengths(piece), piece.member.work.batch.rows
        if run.job_id not in self._costs:
            self._costs[run.job_id] = self._flops.adapter(run.adapter.targets)
        return FlopLoad(
            adapter=self._costs[run.job_id],
            tokens=sum(lengths),
            labels=sum(rows[index].num_labels for index in piece.rows),
            squares=sum(length**2 for length in lengths),
        )


def _padding(wave: Wave) -> dict[str, int]:
    """Positions beyond the ends of each job's rows, which are as long as the longest on their lane."""
    padding: dict[str, int] = {}
    for lane in wave:
        lengths = {piece.member.run.job_id: _lengths(piece) for piece in lane}
        longest = max(max(own) for own in lengths.values())
        for job_id, own in lengths.items():
            padding[job_id] = padding.get(job_id, 0) + len(own) * longest - sum(own)
    return padding


def _lengths(piece: Slice) -> list[int]:
    return [len(piece.member.work.batch.rows[index].ids) for index in piece.rows]
