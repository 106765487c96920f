"""Requests to a service: its problem documents as errors, retries where asking twice is asking once, streams followed.

Every error knows the exit code that a command ends with.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from jobs.errors import LoraloomError, Problem, SpecError

_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 60.0
"""A stream says at least every 15 seconds that it lives."""
_FIRST_DELAY_SECONDS = 0.2
_LONGEST_DELAY_SECONDS = 5.0
_TO_BE_RETRIED = frozenset({408, 429, 502, 503, 504})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class ServiceError(LoraloomError):
    """A service did not do what was asked."""

    exit_code = 1


class RefusedError(ServiceError):
    """The request was not accepted: it makes no sense as it is, or not in the state that things are in."""

    def __init__(self, status: int, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        """Of HTTP."""
        self.kind = kind
        """Code of what is wrong."""
        self.exit_code = 2 if status in (400, 413, 415, 422) else 1

    def __reduce__(self) -> tuple[type[RefusedError], tuple[int, str, str]]:
        return type(self), (self.status, self.kind, str(self))


class NotFoundError(ServiceError):
    """There is no such job, sweep or file."""

    exit_code = 3


class UnauthorisedError(ServiceError):
    """The service does not know the token, or the token may not do this."""

    exit_code = 4


class UnreachableError(ServiceError):
    """Nothing that is a service answers."""

    exit_code = 4


class Transport:
    """Makes requests to one service."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        timeout_seconds: float,
        patience_seconds: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Address a service; nothing is sent yet.

        Args:
            url: Such as `http://127.0.0.1:8400`.
            token: Sent with every request.
            timeout_seconds: For each answer to begin.
            patience_seconds: How long to try again while nothing answers.
            sleep: Waits between two tries.

        Raises:
            ServiceError: The URL is none.
        """
        try:
            parsed = httpx.URL(urlsplit(url).geturl())
        except (httpx.InvalidURL, ValueError) as error:
            raise ServiceError(f"{url!r} is no URL: {error}; write such as http://127.0.0.1:8400") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ServiceError(f"{url!r} is no URL of a service; write such as http://127.0.0.1:8400")
        self.url = url.rstrip("/")
        self._patience_seconds = patience_seconds
        self._sleep = sleep
        headers = {"Accept": "application/json, application/problem+json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            self._client = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=httpx.Timeout(timeout_seconds, connect=_CONNECT_SECONDS),
                # A proxy for the outside does not know this machine.
                trust_env=parsed.host not in _LOOPBACK,
            )
        except (UnicodeEncodeError, ValueError) as error:
            raise UnauthorisedError("the token in LORALOOM_TOKEN cannot be sent: it is not plain ASCII") from error

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, repeated while nothing answers: all requests of ours can be.

        Args:
            method: Of HTTP.
            path: Below the URL, encoded.
            options: As httpx takes them.

        Raises:
            SpecError: A spec was refused.
            ServiceError: Of the kind that fits.
        """
        began, delay = time.monotonic(), _FIRST_DELAY_SECONDS
        while True:
            is_last = time.monotonic() - began + delay > self._patience_seconds
            try:
                response = self._client.request(method, path, **options)
            except httpx.TransportError as error:
                if is_last:
                    raise self._unreachable(error) from error
            else:
                if is_last or response.status_code not in _TO_BE_RETRIED:
                    return checked(response)
            self._sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)

    @contextmanager
    def stream(self, path: str, **options: Any) -> Iterator[httpx.Response]:
        """The answer to a GET as it comes.

        Raises:
            ServiceError: Of the kind that fits.
        """
        try:
            with self._client.stream("GET", path, **options) as response:
                if not response.is_success:
                    response.read()
                yield checked(response)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    def frames(self, path: str, after: int | None) -> Iterator[dict[str, Any] | None]:
        """Server-sent events, without end: what ends is begun again after the last event that came.

        Args:
            path: Of the stream.
            after: Sequence of the last event that is known; `None` for what the path begins with.

        Yields:
            Data of an event, or `None` when a connection has been made: what follows from here is not missed.

        Raises:
            ServiceError: Nothing answers for longer than the patience, or it is refused.
        """
        seen, failing_since, delay = after, None, _FIRST_DELAY_SECONDS
        while True:
            headers = {"Accept": "text/event-stream", **({} if seen is None else {"Last-Event-ID": str(seen)})}
            try:
                timeout = httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS)
                with self.stream(path, headers=headers, timeout=timeout) as response:
                    failing_since, delay = None, _FIRST_DELAY_SECONDS
                    for sequence, data in _events(response.iter_lines()):
                        if sequence is not None:
                            seen = sequence
                        yield data
            except (UnreachableError, RefusedError) as error:
                if isinstance(error, RefusedError) and error.status not in _TO_BE_RETRIED:
                    raise
                failing_since = failing_since if failing_since is not None else time.monotonic()
                if time.monotonic() - failing_since > self._patience_seconds:
                    raise
            self._sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)

    def _unreachable(self, error: httpx.TransportError) -> UnreachableError:
        why = "it does not answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or "no answer"
        return UnreachableError(
            f"no service answers at {self.url} ({why}); start one with `loraloom serve`, or set LORALOOM_URL to where "
            "one is"
        )


def checked(response: httpx.Response) -> httpx.Response:
    """The response, if it is what was asked for.

    Raises:
        SpecError: A spec was refused.
        ServiceError: Of the kind that fits.
    """
    if response.is_success:
        return response
    status = response.status_code
    try:
        document: Mapping[str, Any] = response.json()
        detail, kind = str(document["detail"]), str(document["type"]).rpartition(":")[2]
        errors = document.get("errors") or []
    except (ValueError, KeyError, TypeError):
        raise UnreachableError(
            f"{response.url} answers with {status} and is not a Loraloom service; set LORALOOM_URL to where one is"
        ) from None
    if kind == "invalid-spec":
        known = Problem.__dataclass_fields__
        raise SpecError([Problem(**{key: value for key, value in one.items() if key in known}) for one in errors])
    if status == 404:
        raise NotFoundError(detail)
    if status in (401, 403, 421):
        raise UnauthorisedError(detail)
    raise RefusedError(status, kind, detail)


def _events(lines: Iterator[str]) -> Iterator[tuple[int | None, dict[str, Any] | None]]:
    """Sequence and data of each event; first of all a pair of nothing, once the stream stands."""
    sequence, data, stands = None, [], False
    for line in lines:
        if not stands:
            stands = True
            yield None, None
        if not line:
            if data:
                yield sequence, json.loads("\n".join(data))
            sequence, data = None, []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id" and value.isdecimal():
            sequence = int(value)
        elif name == "data":
            data.append(value)
