"""A regular expression over module names to the globs that mean the same, for answers to people."""

from __future__ import annotations

import re

_ANY = re.compile(r"\((?:\?:)?(?:\\d|\\w|\.)[+*]\)\??|\[(?:\\d|0-9)\][+*]?|\\[dw][+*]?|\[\^\\?\.\][+*]|\.[*+]\??")
_INNERMOST = re.compile(r"\((?:\?:)?([^()]*)\)")
_MOST = 16
_LEFT_OVER = re.compile(r"[\\^$()|+{}]")


def globs(pattern: str) -> list[str] | None:
    """The globs that match what a regular expression matches whole; `None` where it has no such short list.

    Knows what people write for module names: groups of alternatives, `.*`, `\\d+`, `[01]` and escaped dots.
    """
    if re.search(r"\(\?(?!:)", pattern):
        return None
    text = _ANY.sub("*", pattern.removeprefix("^").removesuffix("$")).replace("\\.", ".")
    found = [text]
    while any("(" in glob for glob in found):
        expanded: list[str] = []
        for glob in found:
            match = _INNERMOST.search(glob)
            if match is None and "(" in glob:
                return None
            parts = match[1].split("|") if match else [""]
            expanded += [glob[: match.start()] + part + glob[match.end() :] if match else glob for part in parts]
        if len(expanded) > _MOST:
            return None
        found = expanded
    found = [part for glob in found for part in glob.split("|")]
    if any(_LEFT_OVER.search(glob) for glob in found):
        return None
    # A name or glob is looked for at the end of a module's full name, so whole parts that precede it can go.
    return list(dict.fromkeys(re.sub(r"^(\*\.)+", "", re.sub(r"\*+", "*", glob)) or "*" for glob in found))
