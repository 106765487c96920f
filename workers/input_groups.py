"""Which linears of a base read the very same tensor, found by looking on while it runs once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_PROBE_TOKENS = 3


def find_input_groups(model: PreTrainedModel, names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Linears called one after the other with one input, such as a transformer's q, k, v and its gate, up.

    Args:
        model: Not yet changed by us.
        names: Of its linears.

    Returns:
        Groups of two and more, each in the order of calls. A module that is called more than once belongs to none.
    """
    calls: list[tuple[str, Tensor, int]] = []

    def watch(name: str) -> Any:
        def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            # Keeping the tensor keeps another from taking its place in memory.
            calls.append((name, inputs[0], inputs[0]._version))

        return before

    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in names]
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, _PROBE_TOKENS, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    called = [name for name, _, _ in calls]
    groups: list[list[str]] = []
    previous: tuple[Tensor, int] | None = None
    for name, x, version in calls:
        if called.count(name) > 1:
            previous = None
            continue
        if previous is not None and previous[0] is x and previous[1] == version:
            groups[-1].append(name)
        else:
            groups.append([name])
        previous = (x, version)
    return tuple(tuple(group) for group in groups if len(group) > 1)
