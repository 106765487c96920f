"""How near a mistyped key is to a field."""

from __future__ import annotations

import re
from collections.abc import Iterable


def nearest(key: str, names: Iterable[str]) -> str | None:
    """The one name that a key is a slip of the fingers away from; `None` where there is none, or more than one.

    One letter too many, too few, wrong or swapped, two in names of ten letters and more; case, dashes and underscores
    are free. Digits have to agree, since adam_beta3 is no slip for adam_beta2.
    """
    bare = _bare(key)
    most = 2 if len(bare) >= 10 else 1
    if len(bare) < 2 or len(bare) > 60:
        return None
    distances = {
        name: distance(bare, _bare(name))
        for name in names
        if abs(len(bare) - len(_bare(name))) <= most and re.findall(r"\d", bare) == re.findall(r"\d", name)
    }
    least = min(distances.values(), default=most + 1)
    found = [name for name, number in distances.items() if number == least]
    return found[0] if least <= most and len(found) == 1 else None


def distance(a: str, b: str) -> int:
    """Letters to insert, delete, replace or swap with their neighbour (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        above, row = row, [i]
        for j, other in enumerate(b, start=1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before = above
    return row[-1]


def _bare(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()
