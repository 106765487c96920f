"""A mapping that cannot be changed, for the fields of frozen specs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn, TypeVar

V = TypeVar("V")


class FrozenDict(dict[str, V]):
    """A read-only `dict` that can be hashed and pickled.

    A `dict` still, so that `json.dumps` and libraries that ask for one take it as it is.
    """

    def __init__(self, items: Mapping[str, V] | None = None) -> None:
        super().__init__(items or {})

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[FrozenDict[V]], tuple[dict[str, V]]]:
        return type(self), (dict(self),)

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("a spec is never changed: make a new one")

    __setitem__ = __delitem__ = __ior__ = _refuse  # type: ignore[assignment]
    clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]
