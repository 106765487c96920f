"""Metrics of jobs over their steps, thinned so that a long run takes no more room than a short one.

The rule, for each job and kind: the first point and the last are kept, and between them those whose step is divisible
by `every`. It is 1 at first, and doubles whenever there are more than `MAX_POINTS`. So points stay evenly spaced, and
which ones are kept depends on their steps alone, not on how they were grouped into transactions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, and_, delete, func, or_, select
from sqlalchemy.dialects.sqlite import insert as upsert

from orchestrator.journal.records import MetricKind, MetricPoint
from orchestrator.journal.statements import find, finite_json
from orchestrator.journal.tables import metric_series, metrics

MAX_POINTS = 2000
"""Most points of one kind that a job keeps."""


@dataclass(kw_only=True)
class _Series:
    every: int
    num_points: int
    first_step: int
    last_step: int

    def keeps(self, step: int) -> bool:
        """Whether a point stays once there is a later one."""
        return step == self.first_step or step % self.every == 0


def record(connection: Connection, points: Sequence[MetricPoint], max_points: int = MAX_POINTS) -> None:
    """Add points. One of a step that is there takes the other's place.

    Raises:
        NoSuchJob: There is no such job. Nothing was added.
    """
    by_series: dict[tuple[str, MetricKind], dict[int, MetricPoint]] = {}
    for point in points:
        by_series.setdefault((point.job_id, point.kind), {})[point.step] = point
    for (job_id, kind), by_step in by_series.items():
        find(connection, job_id)
        _extend(connection, job_id, kind, [by_step[step] for step in sorted(by_step)], max_points)


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
        connection.execute(metric_series.update().where(series).values(num_points=num_points, last_step=last))


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


def _extend(connection: Connection, job_id: str, kind: MetricKind, points: list[MetricPoint], max_points: int) -> None:
    mine = and_(metrics.c.job_id == job_id, metrics.c.kind == kind)
    found = (
        connection.execute(select(metric_series).where(metric_series.c.job_id == job_id, metric_series.c.kind == kind))
        .mappings()
        .one_or_none()
    )
    first, last = points[0].step, points[-1].step
    if found is None:
        series = _Series(every=1, num_points=0, first_step=first, last_step=last)
    else:
        series = _Series(
            every=found["every"],
            num_points=found["num_points"],
            first_step=min(found["first_step"], first),
            last_step=max(found["last_step"], last),
        )
        if found["last_step"] < series.last_step and not series.keeps(found["last_step"]):
            connection.execute(delete(metrics).where(mine, metrics.c.step == found["last_step"]))
            series.num_points -= 1
    kept = [point for point in points if series.keeps(point.step) or point.step == series.last_step]
    if kept:
        put = upsert(metrics)
        connection.execute(
            put.on_conflict_do_update(
                index_elements=["job_id", "step", "kind"], set_={"values": put.excluded["values"]}
            ),
            [
                {"job_id": job_id, "step": point.step, "kind": kind, "values": finite_json(point.values)}
                for point in kept
            ],
        )
    series.num_points += len(kept)
    if series.num_points > max_points:
        _thin(connection, job_id, kind, series, max_points)
    put = upsert(metric_series).values(job_id=job_id, kind=kind, **vars(series))
    connection.execute(put.on_conflict_do_update(index_elements=["job_id", "kind"], set_=vars(series)))


def _thin(connection: Connection, job_id: str, kind: MetricKind, series: _Series, max_points: int) -> None:
    """Double the distance until there are few enough. What was counted may have taken the place of another point."""
    mine = and_(metrics.c.job_id == job_id, metrics.c.kind == kind)

    def num_points() -> int:
        return connection.execute(select(func.count()).select_from(metrics).where(mine)).scalar() or 0

    series.num_points = num_points()
    while series.num_points > max_points:
        series.every *= 2
        ends = or_(metrics.c.step == series.first_step, metrics.c.step == series.last_step)
        connection.execute(delete(metrics).where(mine, metrics.c.step % series.every != 0, ~ends))
        series.num_points = num_points()


def _point(row: RowMapping) -> MetricPoint:
    return MetricPoint(job_id=row["job_id"], step=row["step"], kind=row["kind"], values=json.loads(row["values"]))
