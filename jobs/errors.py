"""The error tree. Every class survives pickling, so that a worker's error reaches the driver as it was raised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with a spec or with what it points to, told so that a person can mend it."""

    message: str
    """What is wrong and what would be right, one sentence or two."""
    field: str = ""
    """Dotted path inside the spec, list items as `datasets[0].path`; empty for the document as a whole."""
    value: str | None = None
    """The offending value as the user wrote it, shortened."""
    file: str | None = None
    line: int | None = None
    """1-based line in `file`."""
    is_passing: bool = False
    """It may be gone the next time: nothing is wrong with the spec."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        field = f"{self.field}: " if self.field else ""
        value = f" (got {self.value})" if self.value is not None else ""
        return f"{where}{field}{self.message}{value}"

    def at(self, *, file: str | None, line: int | None) -> Problem:
        """The same problem with its place in a file."""
        return replace(self, file=file, line=line)


class LoraloomError(Exception):
    """Root of all errors that Loraloom raises on purpose."""


class SpecError(LoraloomError):
    """One or more specs cannot be accepted. Carries every problem that was found, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class JobError(LoraloomError):
    """A job cannot go on; its neighbours can. `reason` is a short machine-readable code, the message is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[JobError], tuple[str, str]]:
        return type(self), (self.reason, str(self))


class DataError(JobError):
    """A dataset, or one row of it, cannot be used."""

    def __init__(self, message: str, *, field: str = "datasets") -> None:
        super().__init__("data", message)
        self.field = field

    def __reduce__(self) -> tuple[type[DataError], tuple[str], dict[str, str]]:  # type: ignore[override]
        return type(self), (str(self),), {"field": self.field}


class BaseModelError(LoraloomError):
    """A base model cannot be loaded, or is of a kind that adapters cannot be put on."""

    def __init__(self, message: str, *, field: str = "model.model_name_or_path", value: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.value = value

    def __reduce__(self) -> tuple[type[BaseModelError], tuple[str], dict[str, str | None]]:
        return type(self), (str(self),), {"field": self.field, "value": self.value}


UNAVAILABLE = "unavailable"
"""Reason of what is tried again, uncharged, until it works: a base or data that could not be had just now."""


class BaseUnavailableError(BaseModelError):
    """A base model cannot be had just now, for a reason that passes: it is tried again, and no job is charged."""


class DataUnavailableError(JobError):
    """A job's data or tokenizer cannot be had just now, for a reason that passes: it is tried again, uncharged."""

    def __init__(self, message: str) -> None:
        super().__init__(UNAVAILABLE, message)

    def __reduce__(self) -> tuple[type[DataUnavailableError], tuple[str]]:  # type: ignore[override]
        return type(self), (str(self),)


class StoreError(JobError):
    """The store of checkpoints and artifacts refuses something for good: a person has to mend what the message names.

    What stood in the store before stands there still.
    """

    def __init__(self, uri: str, problem: str) -> None:
        super().__init__("store", f"{uri}: {problem}")
        self.uri = uri
        self.problem = problem

    def __reduce__(self) -> tuple[type[StoreError], tuple[str, str]]:
        return type(self), (self.uri, self.problem)


class StoreUnavailableError(StoreError):
    """The store could not be reached, or broke off, however often it was tried; it may be back by itself."""


class WorkerError(LoraloomError):
    """A worker as a whole died or raised; the jobs placed on it end with this reason."""


class DeviceLostError(WorkerError):
    """A device fails whatever is run on it from this process: the worker has to end, and its jobs go elsewhere.

    `suspects` are the jobs that ran when it happened; it is the fault of one of them, or of the device. Where there is
    one suspect alone, it may be charged if the same happens to it again.
    """

    def __init__(self, message: str, *, suspects: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.suspects = tuple(suspects)

    def __reduce__(self) -> tuple[type[DeviceLostError], tuple[str], dict[str, tuple[str, ...]]]:  # type: ignore[override]
        return type(self), (str(self),), {"suspects": self.suspects}
