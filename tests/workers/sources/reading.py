"""Files of rows, written and read in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.errors import DataError
from jobs.spec import DatasetSpec
from workers.sources import open_rows

FIELD = "datasets[3]"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def source(path: Path | str, **block: Any):
    return open_rows(DatasetSpec.model_validate({"path": str(path), **block}), field=FIELD)


def read(path: Path | str, **block: Any) -> list[dict[str, Any]]:
    rows = source(path, **block)
    once = list(rows)
    assert list(rows) == once, "a second pass gives other rows"
    return once


def refusal(path: Path | str, **block: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **block)
    assert caught.value.field.startswith(FIELD)
    return str(caught.value)
