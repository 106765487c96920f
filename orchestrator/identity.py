"""What tells this data directory from all others, wherever its workers and runs meet those of another."""

from __future__ import annotations

import secrets

from orchestrator.journal import Journal

_KEY = "service_id"


def identity(journal: Journal) -> str:
    """12 hex digits: drawn once, kept in the journal, and the same after every restart."""
    return str(journal.fix_setting(_KEY, secrets.token_hex(6)))
