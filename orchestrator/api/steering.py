"""What owners may ask of jobs that are there. Each call states a wish; asked twice, it is one wish."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body

from jobs.records import Desired, JobState
from orchestrator.api.jobs_read import detail
from orchestrator.api.models import JobChange, JobDetail
from orchestrator.api.openapi import problems
from orchestrator.api.problems import ApiError
from orchestrator.api.service import PREFIX, CallerOf, JobId, Service, require_queue
from orchestrator.api.tokens import Caller

_LIVE = frozenset(state for state in JobState if not state.is_terminal)
_RETRIED = frozenset({JobState.FAILED, JobState.CANCELLED})


def routes(service: Service) -> APIRouter:
    """`POST /jobs/{id}/cancel|pause|resume|retry`, `PATCH /jobs/{id}`."""
    router = APIRouter(prefix=PREFIX, tags=["jobs"], responses=problems(404, 409, 507))
    reader, journal = service.reader, service.journal

    def steer(
        job_id: str, caller: Caller, desired: Desired | None = None, change: JobChange | None = None
    ) -> JobDetail:
        job = reader.job_meant(job_id, _LIVE, queues=caller.readable)
        require_queue(caller, job.queue)
        priority, queue = (change.priority, change.queue) if change is not None else (None, None)
        if queue is not None:
            require_queue(caller, queue)
        event = journal.steer(job.id, desired=desired, priority=priority, queue=queue, by=caller.name, at=service.now())
        return _answer(job.id, changed=event is not None)

    def _answer(job_id: str, *, changed: bool) -> JobDetail:
        if changed:
            service.wake()
        return detail(reader.job(job_id), reader.attempts(job_id), service.now())

    @router.post("/jobs/{job_id}/cancel", summary="Cancel a job")
    def cancel(job_id: JobId, caller: CallerOf) -> JobDetail:
        """It ends as CANCELLED; its checkpoints stay, so that it can be retried from there."""
        return steer(job_id, caller, Desired.CANCEL)

    @router.post("/jobs/{job_id}/pause", summary="Pause a job")
    def pause(job_id: JobId, caller: CallerOf) -> JobDetail:
        """It is saved and gives its place to others until it is resumed."""
        return steer(job_id, caller, Desired.PAUSE)

    @router.post("/jobs/{job_id}/resume", summary="Let a paused job go on")
    def resume(job_id: JobId, caller: CallerOf) -> JobDetail:
        """It waits for a place again, and goes on from where it was."""
        return steer(job_id, caller, Desired.RUN)

    @router.post("/jobs/{job_id}/retry", summary="Try a job again that failed or was cancelled")
    def retry(job_id: JobId, caller: CallerOf) -> JobDetail:
        """It goes on from its last good checkpoint, with all its restarts."""
        job = reader.job_meant(job_id, _RETRIED, queues=caller.readable)
        require_queue(caller, job.queue)
        event = journal.retry(job.id, by=caller.name, at=service.now())
        return _answer(job.id, changed=event is not None)

    @router.patch("/jobs/{job_id}", responses=problems(408, 413), summary="Change a job's priority or queue")
    def change(job_id: JobId, caller: CallerOf, change: Annotated[JobChange, Body()]) -> JobDetail:
        """Both at once or one of the two."""
        if change.priority is None and change.queue is None:
            raise ApiError(422, "invalid-parameters", "nothing is to be changed; give priority or queue")
        return steer(job_id, caller, change=change)

    return router
