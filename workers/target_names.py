"""Names of modules as people write them: which modules they fit, and what is said where they fit none."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase

from workers.structure import Structure

_IN_EXPERTS = frozenset({"gate_proj", "up_proj", "down_proj", "gate_up_proj", "w1", "w2", "w3", "experts"})
"""What the products inside an expert are called where they are linears."""


def matches(module: str, entry: str) -> bool:
    """PEFT's rule for lists (the whole name, or its end at a dot), with `*`, `?` and `[...]` allowed in the entry."""
    return fnmatchcase(module, entry) or fnmatchcase(module, f"*.{entry}")


def no_such_target(entry: str, structure: Structure) -> str:
    """Why an entry of `target_modules` or of a pattern fits no linear that can carry an adapter."""
    last = entry.rsplit(".", 1)[-1]
    ends = sorted({name.rsplit(".", 1)[-1] for name in structure.shapes})
    called = f"its linear layers are called {', '.join(ends[:16])}"
    if structure.head is not None and matches(structure.head, entry):
        if structure.head_is_tied:
            return (
                "is the output head, whose weight is the input embedding's too in this base (tied embeddings): an "
                "adapter would train the one and not the other; leave it out"
            )
        if not structure.plain_head:
            return (
                "is the output head, whose logits this base changes after the product (scaled, capped or cut); "
                "adapters on such a head are not supported; leave it out"
            )
        if structure.head_shape is not None:
            return "is the output head, which all-linear leaves out; name it under lora.target_modules to train it"
    experts = structure.experts
    if experts is not None and (last in _IN_EXPERTS or any(matches(name, entry) for name in experts.names)):
        return (
            f"lies in the experts of this base, which are kept as parameters of three dimensions "
            f"({', '.join(experts.names)}) and not as linear layers; adapters on them are not supported; {called}"
        )
    if any(matches(name, entry) for name in structure.beside_text):
        return f"is a linear layer that text does not pass in this base, so an adapter would learn nothing; {called}"
    if any(matches(name, entry) for name in structure.module_names):
        if matches(structure.embedding, entry):
            return "is the input embedding and not a linear layer; adapters on it are not supported; leave it out"
        return f"is a module of this base but not a linear layer, so it cannot carry an adapter; {called}"
    near = difflib.get_close_matches(last, ends, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"no linear layer of this base has that name; {hint}{called}"


def not_excluded(entry: str, structure: Structure) -> str | None:
    """What is wrong with an entry of `exclude_modules` that fits no linear; `None` where it is merely not needed.

    Left out in any case are the head, embeddings, norms, and the towers that text does not pass.
    """
    fitting = [name for name in (*structure.module_names, *structure.beside_text) if matches(name, entry)]
    if not fitting:
        return no_such_target(entry, structure)
    inside = [name for name in structure.shapes for whole in fitting if name.startswith(f"{whole}.")]
    if inside:
        return f"is no linear layer, so excluding it leaves nothing out; for what is in it write {entry}.*"
    return None
