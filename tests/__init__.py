"""Tests, and the demo; `tests.*` is imported from the repository root."""
