from __future__ import annotations

from tests.orchestrator.conftest import WriteSpecs, other_base, rows, tiny_base, write_specs

__all__ = ["WriteSpecs", "other_base", "rows", "tiny_base", "write_specs"]
