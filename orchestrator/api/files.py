"""Logs and published adapters. A file is found by what the journal says of the job, never by what a path says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Header, Query, Response
from fastapi import Path as PathParameter
from fastapi.responses import PlainTextResponse, StreamingResponse

from orchestrator.api.models import ArtifactFile, ArtifactListing
from orchestrator.api.openapi import problems
from orchestrator.api.problems import ApiError, not_found
from orchestrator.api.service import PREFIX, CallerOf, JobId, Service

_CHUNK_BYTES = 256 * 1024
_MOST_TAIL_LINES = 10_000
_MOST_LINE_BYTES = 1024
"""Per line asked for, when looking for the last ones: a log of endless lines is not read whole."""

_FILE_NAME = r"^[A-Za-z0-9_][-A-Za-z0-9_.]{0,254}$"
_BINARY: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def routes(service: Service) -> APIRouter:
    """`/jobs/{id}/logs`, `/jobs/{id}/artifacts` and its files."""
    router = APIRouter(prefix=PREFIX, tags=["files"])
    reader = service.reader

    @router.get(
        "/jobs/{job_id}/logs",
        response_class=PlainTextResponse,
        responses={206: {"description": "The part asked for"}, **problems(404, 409, 416)},
        summary="Log of a job",
    )
    def logs(
        job_id: JobId,
        caller: CallerOf,
        tail: Annotated[int | None, Query(ge=1, le=_MOST_TAIL_LINES, description="Only the last lines")] = None,
        range_: Annotated[str | None, Header(alias="Range", max_length=100, description="One range of bytes")] = None,
    ) -> Response:
        """Whole, its last lines, or a range of its bytes, by which it can be followed."""
        job = reader.job(job_id, queues=caller.readable)
        path = service.log_path(job.id)
        try:
            stream = path.open("rb")
        except FileNotFoundError:
            # Nothing has happened to the job yet.
            stream = None
        size = os.fstat(stream.fileno()).st_size if stream is not None else 0
        part = Part.asked_for(range_, size) if range_ is not None and tail is None else None
        if stream is None:
            return PlainTextResponse("", headers={"Accept-Ranges": "bytes"})
        if tail is not None:
            part = Part(first=_beginning_of_tail(stream, size, tail), end=size, size=size)
            return _text(stream, part, 200)
        return _text(stream, part or Part(first=0, end=size, size=size), 206 if part is not None else 200)

    @router.get("/jobs/{job_id}/artifacts", responses=problems(404, 409), summary="Files of a job's published adapter")
    def artifacts(job_id: JobId, caller: CallerOf) -> ArtifactListing:
        """With the sha256 of each."""
        job = reader.job(job_id, queues=caller.readable)
        record = reader.artifact(job.id)
        if record is None:
            raise not_found(f"job {job.id} is {job.state} and has published no adapter")
        return ArtifactListing(
            job_id=job.id,
            uri=record.uri,
            manifest_sha256=record.manifest_sha256,
            size_bytes=record.size_bytes,
            files=[
                ArtifactFile(name=name, size_bytes=entry.size_bytes, sha256=entry.sha256)
                for name, entry in sorted(record.files.items())
            ],
        )

    @router.get(
        "/jobs/{job_id}/artifacts/{name}",
        response_class=Response,
        responses={**_BINARY, **problems(404, 409)},
        summary="One file of a job's published adapter",
    )
    def artifact_file(
        job_id: JobId,
        caller: CallerOf,
        name: Annotated[str, PathParameter(pattern=_FILE_NAME, description="As it is listed")],
    ) -> Response:
        """Its bytes; the listing says what their sha256 must be."""
        job = reader.job(job_id, queues=caller.readable)
        record = reader.artifact(job.id)
        if record is None or name not in record.files:
            raise not_found(f"job {job.id} has published no file of that name")
        entry = record.files[name]
        try:
            stream = service.files.open(record.uri, name)
        except OSError as error:
            detail = f"{name} of job {job.id} is not where it was published: {error.strerror or error}"
            raise ApiError(404, "not-found", detail) from error
        headers = {
            "Content-Disposition": f'attachment; filename="{name}"',
            "Content-Length": str(entry.size_bytes),
            "ETag": f'"{entry.sha256}"',
        }
        chunks = _chunks(stream, entry.size_bytes)
        return StreamingResponse(chunks, media_type="application/octet-stream", headers=headers)

    return router


@dataclass(frozen=True, kw_only=True)
class Part:
    """A range of a file's bytes."""

    first: int
    end: int
    """After the last byte."""
    size: int
    """Of the whole file."""

    @classmethod
    def asked_for(cls, header: str, size: int) -> Part | None:
        """What a Range header asks for; `None` for the whole, where it is none that is understood (RFC 9110, 14.2).

        Raises:
            ApiError: There is no such part, as in a log that has not grown.
        """
        found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header.strip())
        if found is None or found.groups() == ("", ""):
            return None
        first, last = found.groups()
        if not first:
            begin, end = max(0, size - int(last)), size
            if int(last) == 0:
                begin = size
        else:
            begin, end = int(first), min(size, int(last) + 1) if last else size
            if last and int(last) < begin:
                return None
        if begin >= size:
            detail = f"the file has {size} bytes, and nothing from byte {begin} on"
            raise ApiError(416, "no-such-range", detail, headers={"Content-Range": f"bytes */{size}"})
        return cls(first=begin, end=end, size=size)


def _text(stream: BinaryIO, part: Part, status: int) -> Response:
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(part.end - part.first)}
    if status == 206:
        headers["Content-Range"] = f"bytes {part.first}-{part.end - 1}/{part.size}"
    stream.seek(part.first)
    return StreamingResponse(_chunks(stream, part.end - part.first), status, headers, media_type="text/plain")


def _chunks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """So many bytes: what a log grows by meanwhile is for the next request."""
    with stream:
        while size > 0:
            chunk = stream.read(min(size, _CHUNK_BYTES))
            if not chunk:
                return
            size -= len(chunk)
            yield chunk


def _beginning_of_tail(stream: BinaryIO, size: int, lines: int) -> int:
    """Where the last lines begin."""
    most = lines * _MOST_LINE_BYTES
    position, breaks = size, -1
    while position > 0 and size - position < most:
        length = min(_CHUNK_BYTES, position)
        stream.seek(position - length)
        block = stream.read(length)
        if position == size and not block.endswith(b"\n"):
            breaks = 0
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            breaks += 1
            if breaks == lines:
                return position - length + at + 1
        position -= length
    return max(position, 0)
