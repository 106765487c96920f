"""Splits examples into training and evaluation rows that share nothing, the same way on every machine."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from tests.real_inputs.sources import Example


def near_duplicate_key(text: str) -> str:
    """Return what two texts share that differ only in case, punctuation, spacing or numbers.

    Spam comes in waves that differ only in the number to call, so equality of the text would leak rows into evaluation.
    """
    return " ".join(re.sub(r"\d+", "0", word) for word in re.findall(r"\w+", text.casefold()))


def distinct(examples: Iterable[Example]) -> list[Example]:
    """Keep the first example of each near-duplicate group, and none of a group whose labels disagree."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[near_duplicate_key(example.text)].append(example)
    return [group[0] for group in groups.values() if len({example.label for example in group}) == 1]


def shuffled(examples: Iterable[Example], seed: str) -> list[Example]:
    """Order examples by a hash of seed and text: no generator whose draws could change, no trace of the input order."""
    return sorted(examples, key=lambda example: hashlib.sha256(f"{seed}\n{example.text}".encode()).digest())


def split(
    examples: Sequence[Example], *, num_train: int, num_eval: int, seed: str
) -> tuple[list[Example], list[Example]]:
    """Return (train, eval): `num_eval` evaluation rows, then up to `num_train` training rows of what remains.

    Duplicates are removed first. A smaller `num_eval` with the same seed takes a prefix of the same evaluation rows.
    """
    rows = shuffled(distinct(examples), seed)
    return rows[num_eval : num_eval + num_train], rows[:num_eval]


def split_balanced(
    examples: Sequence[Example], *, num_train: int, num_eval: int, seed: str
) -> tuple[list[Example], list[Example]]:
    """Like `split`, but with equally many rows of each label in both parts, as the rarest label allows.

    Raises:
        ValueError: `num_eval` is no multiple of the number of labels.
    """
    rows = shuffled(distinct(examples), seed)
    by_label: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        by_label[row.label].append(row)
    num_eval_each, rest = divmod(num_eval, len(by_label))
    if rest:
        raise ValueError(f"num_eval {num_eval} is no multiple of the {len(by_label)} labels")
    rarest = min(len(group) for group in by_label.values())
    num_train_each = min(num_train // len(by_label), rarest - num_eval_each)
    train = [row for group in by_label.values() for row in group[num_eval_each : num_eval_each + num_train_each]]
    evaluation = [row for group in by_label.values() for row in group[:num_eval_each]]
    # Not in the order they were chosen by: rows of a frequent label were all chosen from the front of it.
    order = f"{seed} order"
    return shuffled(train, order), shuffled(evaluation, order)
