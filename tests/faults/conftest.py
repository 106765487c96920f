from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.nursery import Nursery
from tests.orchestrator.conftest import WriteSpecs, other_base, rows, tiny_base, write_specs

__all__ = ["WriteSpecs", "other_base", "rows", "tiny_base", "write_specs"]


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    started = Nursery()
    yield started
    started.close()
