"""What is wrong with this machine, and what mends it. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.diagnosis import machine, software, surroundings
from orchestrator.diagnosis.findings import Finding, problem

__all__ = ["Finding", "Subject", "examine"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What to look at."""

    data_dir: Path
    """Where a service keeps, or is to keep, what it has."""
    url: str
    """Of a service."""
    ray_address: str | None
    """Of a Ray cluster that a service is to join."""
    token_file: Path | None
    bases: Sequence[str]
    """Folders or hub names of base models."""


def examine(subject: Subject) -> Iterator[Finding]:
    """Look at everything, one after the other; each finding comes as soon as it is there."""
    looks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("versions", software.versions),
        ("devices", software.devices),
        ("memory", machine.memory),
        ("shared memory", machine.shared_memory),
        ("disk", lambda: machine.disk(subject.data_dir)),
        ("journal", lambda: machine.journal(subject.data_dir)),
        ("open files", machine.open_files),
        ("clock", lambda: machine.clock(subject.data_dir)),
        ("service", lambda: surroundings.service(subject.url)),
        ("ray", lambda: surroundings.ray(subject.ray_address)),
        ("tokens", lambda: surroundings.token_file(subject.token_file)),
        *((f"base {base}", lambda base=base: surroundings.base(base)) for base in subject.bases),
    ]
    for what, look in looks:
        try:
            yield from look()
        except Exception as error:
            # A look that fails says something about the machine too, and must not hide the others.
            yield problem(what, f"could not be looked at: {type(error).__name__}: {error}", "report this")
