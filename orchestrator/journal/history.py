"""Metrics of jobs over their steps, thinned so that a long run takes no more room than a short one.

The rule, for each job and kind: the first point and the last are kept, and between them those whose step is divisible
by `every`. It is 1 at first, and doubles whenever there are more than `MAX_POINTS`. So points stay evenly spaced, and
which ones are kept depends on their steps alone, not on how they were grouped into transactions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, bindparam, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from orchestrator.journal.errors import NoSuchJob
from orchestrator.journal.records import MetricKind, MetricPoint
from orchestrator.journal.statements import finite_json
from orchestrator.journal.tables import jobs, metric_series, metrics

MAX_POINTS = 2000
"""Most points of one kind that a job keeps."""

_put, _put_series = upsert(metrics), upsert(metric_series)
_PUT = _put.on_conflict_do_update(index_elements=["job_id", "step", "kind"], set_={"values": _put.excluded["values"]})
_PUT_SERIES = _put_series.on_conflict_do_update(
    index_elements=["job_id", "kind"],
    set_={name: _put_series.excluded[name] for name in ("every", "num_points", "first_step", "last_step")},
)
_REMOVE = delete(metrics).where(
    metrics.c.job_id == bindparam("of_job"),
    metrics.c.kind == bindparam("of_kind"),
    metrics.c.step == bindparam("at_step"),
)


@dataclass(kw_only=True)
class _Series:
    job_id: str
    kind: MetricKind
    every: int
    num_points: int
    first_step: int
    last_step: int

    def keeps(self, step: int) -> bool:
        """Whether a point stays once there is a later one."""
        return step == self.first_step or step % self.every == 0

    @property
    def points(self) -> ColumnElement[bool]:
        """Which rows are its own."""
        return and_(metrics.c.job_id == self.job_id, metrics.c.kind == self.kind)


def record(connection: Connection, points: Sequence[MetricPoint], max_points: int = MAX_POINTS) -> None:
    """Add points. One of a step that is there takes the other's place.

    Raises:
        NoSuchJob: There is no such job. Nothing was added.
    """
    given: dict[tuple[str, MetricKind], dict[int, MetricPoint]] = {}
    for point in points:
        given.setdefault((point.job_id, point.kind), {})[point.step] = point
    if not given:
        return
    before = _load(connection, sorted({job_id for job_id, _ in given}))
    series: list[_Series] = []
    passed: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    for (job_id, kind), by_step in given.items():
        first, last = min(by_step), max(by_step)
        one = before.get((job_id, kind))
        if one is None:
            one = _Series(job_id=job_id, kind=kind, every=1, num_points=0, first_step=first, last_step=last)
        else:
            was_last = one.last_step
            one.first_step, one.last_step = min(one.first_step, first), max(one.last_step, last)
            if was_last < one.last_step and not one.keeps(was_last):
                passed.append({"of_job": job_id, "of_kind": kind, "at_step": was_last})
                one.num_points -= 1
        fitting = [point for step, point in by_step.items() if one.keeps(step) or step == one.last_step]
        one.num_points += len(fitting)
        kept += [
            {"job_id": job_id, "kind": kind, "step": point.step, "values": finite_json(point.values)}
            for point in fitting
        ]
        series.append(one)
    if passed:
        connection.execute(_REMOVE, passed)
    if kept:
        connection.execute(_PUT, kept)
    for one in series:
        if one.num_points > max_points:
            _thin(connection, one, max_points)
    connection.execute(_PUT_SERIES, [vars(one) for one in series])


def cut(connection: Connection, job_id: str, kind: MetricKind, step: int) -> None:
    """Remove what came after a step."""
    mine = and_(metrics.c.job_id == job_id, metrics.c.kind == kind)
    series = and_(metric_series.c.job_id == job_id, metric_series.c.kind == kind)
    connection.execute(delete(metrics).where(mine, metrics.c.step > step))
    num_points, last = connection.execute(
        select(func.count(), func.max(metrics.c.step)).select_from(metrics).where(mine)
    ).one()
    if num_points == 0:
        connection.execute(delete(metric_series).where(series))
    else:
        connection.execute(update(metric_series).where(series).values(num_points=num_points, last_step=last))


def read(
    connection: Connection, job_id: str, kind: MetricKind | None, after_step: int, limit: int | None
) -> tuple[MetricPoint, ...]:
    """See `JournalReader.metrics`."""
    query = select(metrics).where(metrics.c.job_id == job_id, metrics.c.step > after_step)
    if kind is not None:
        query = query.where(metrics.c.kind == kind)
    if limit is not None:
        query = query.limit(limit + 1)
    rows = connection.execute(query.order_by(metrics.c.step, metrics.c.kind)).mappings().all()
    if limit is not None and len(rows) > limit:
        # Both points of a step or none, since a step is what the next call goes on after.
        cut_at = rows[limit]["step"]
        rows = [row for row in rows if row["step"] < cut_at] or rows[:2]
    return tuple(_point(row) for row in rows)


def _load(connection: Connection, job_ids: Sequence[str]) -> dict[tuple[str, str], _Series]:
    known = set(connection.execute(select(jobs.c.id).where(jobs.c.id.in_(job_ids))).scalars())
    for job_id in job_ids:
        if job_id not in known:
            raise NoSuchJob(job_id)
    found = connection.execute(select(metric_series).where(metric_series.c.job_id.in_(job_ids))).mappings()
    return {(row["job_id"], row["kind"]): _Series(**row) for row in found}


def _thin(connection: Connection, series: _Series, max_points: int) -> None:
    """Double the distance until there are few enough."""
    count = select(func.count()).select_from(metrics).where(series.points)
    # Points that took the place of others were counted as well.
    series.num_points = connection.execute(count).scalar() or 0
    while series.num_points > max_points:
        series.every *= 2
        between = metrics.c.step.not_in([series.first_step, series.last_step])
        connection.execute(delete(metrics).where(series.points, metrics.c.step % series.every != 0, between))
        series.num_points = connection.execute(count).scalar() or 0


def _point(row: RowMapping) -> MetricPoint:
    return MetricPoint(job_id=row["job_id"], step=row["step"], kind=row["kind"], values=json.loads(row["values"]))
