from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.orchestrator.conftest import laid_over, rows, tiny_base
from tests.web.browsing import open_browser

__all__ = ["rows", "tiny_base"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with open_browser() as one:
        yield one


@pytest.fixture
def spec_of(tiny_base: Path, rows: Path):
    """A small job that trains for as long as the test needs it."""

    def make(name: str, **more: object) -> dict[str, object]:
        spec: dict[str, object] = {
            "name": name,
            "model": {"model_name_or_path": str(tiny_base), "dtype": "float32"},
            "lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
            "datasets": [{"path": str(rows)}],
            "training": {
                "max_steps": 1_000_000,
                "per_device_train_batch_size": 3,
                "learning_rate": 0.01,
                "logging_steps": 1,
                "save_steps": 1_000_000,
            },
        }
        return laid_over(spec, more)

    return make
