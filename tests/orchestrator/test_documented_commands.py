"""Every command that a document or a message tells people to type exists, with its options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.orchestrator.command_lines import in_markdown, in_source, parse, unknown

ROOT = Path(__file__).parents[2]
DOCUMENTS = [path for path in ROOT.glob("**/*.md") if not any(part.startswith(".") for part in path.parts)]
SOURCES = [
    path for folder in ("jobs", "workers", "orchestrator", "dashboards") for path in (ROOT / folder).rglob("*.py")
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_commands_that_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    wrong = {line: unknown(line) for line in in_markdown(text)}
    assert not {line: words for line, words in wrong.items() if words}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", text)) <= targets


def test_the_documents_are_read_at_all() -> None:
    assert len(DOCUMENTS) >= 3
    lines = list(in_markdown((ROOT / "README.md").read_text(encoding="utf-8")))
    assert "pause trec-fine" in lines
    assert any(line.startswith("run jobs/examples/demo.yaml") for line in lines)


def test_messages_name_commands_that_exist() -> None:
    wrong = {
        f"{path.relative_to(ROOT)}: {line}": words
        for path in SOURCES
        for line in in_source(path.read_text(encoding="utf-8"))
        if (words := unknown(line))
    }
    assert not wrong


def test_what_does_not_exist_is_found() -> None:
    assert unknown("serve --allowed-host x") == ["--allowed-host"]
    assert unknown("artifacts fetch x") == ["fetch"]
    assert unknown("artifacts ls|get|verify x") == []
    assert list(
        in_markdown("a\n```\nx --owner loraloom --mode 1\n$ loraloom list; loraloom show a # b\n```\n`loraloom x`")
    ) == [
        "list",
        "show a ",
        "x",
    ]
    with pytest.raises(Exception, match="No such option"):
        parse(["serve", "--nonsense"])
