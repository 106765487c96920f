"""Template-made text in units that are not to be torn: special tokens, tags, words, single other characters."""

from __future__ import annotations

import re
from collections.abc import Iterable

_MARKER = r"<[^<>\s]{1,64}>|\[[^\[\]\s]{1,32}\]"


class Units:
    """Cuts text at the borders of units."""

    def __init__(self, special_tokens: Iterable[str] = ()) -> None:
        """`special_tokens` are units as they are; what looks like a tag (`<…>`, `[…]`) is one without being named."""
        named = "|".join(re.escape(one) for one in sorted({*special_tokens} - {""}, key=len, reverse=True))
        self._marker = re.compile(f"{named}|{_MARKER}" if named else _MARKER)
        self._unit = re.compile(f"(?:{self._marker.pattern})|\\w+|.", re.DOTALL)

    def split(self, text: str) -> list[str]:
        """The units, which join to the text."""
        return self._unit.findall(text)

    def is_marker(self, unit: str) -> bool:
        """Whether a unit is a special token or a tag."""
        return self._marker.fullmatch(unit) is not None

    def common(self, one: str, other: str) -> str:
        """The longest common beginning that ends at a border of both."""
        taken = []
        for mine, theirs in zip(self.split(one), self.split(other), strict=False):
            if mine != theirs:
                break
            taken.append(mine)
        return "".join(taken)

    def find(self, wanted: str, text: str) -> int | None:
        """Where the longest beginning of `wanted` that stands in `text` ends, at its last occurrence.

        Only a part of it counts where what is missing begins with a marker and what is there is more than blank: a
        template that invites the answer with `<think>` and then does not write it, say.
        """
        units = self.split(wanted)
        for count in range(len(units), 0, -1):
            if count < len(units) and not self.is_marker(units[count]):
                continue
            beginning = "".join(units[:count])
            at = text.rfind(beginning)
            if at >= 0 and (count == len(units) or beginning.strip()):
                return at + len(beginning)
        return None

    def has_words(self, text: str) -> bool:
        """Whether there is a word outside of markers."""
        return any(not self.is_marker(unit) and unit[0].isalnum() for unit in self.split(text))
