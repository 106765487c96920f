"""Values of Arrow types as text, in the spelling that they have outside of Arrow: JSON's for numbers and booleans."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from workers.sources.json_values import decode_nested, decode_value

Converter = Callable[[Any], Any]


def top_converter(kind: pa.DataType) -> Converter:
    """What turns a value of this type, as `to_pylist` gives it, into one of a row: text, or JSON values if it nests."""
    kind = _plain(kind)
    if isinstance(kind, pa.JsonType):
        return _optional(decode_value)
    if pa.types.is_boolean(kind):
        return _optional(lambda value: "true" if value else "false")
    if pa.types.is_integer(kind):
        return _optional(str)
    if pa.types.is_floating(kind):
        scalar = {16: np.float16, 32: np.float32, 64: float}[kind.bit_width]
        # Of a type's values the shortest text that means the same: 0.1 of 32 bits is 0.10000000149011612 of 64.
        return _optional(lambda value: str(scalar(value)) if math.isfinite(value) else value)
    return nested_converter(kind)


def nested_converter(kind: pa.DataType) -> Converter:
    """What makes a JSON value of one inside of a list or struct: numbers and booleans stay what they are."""
    kind = _plain(kind)
    if isinstance(kind, pa.JsonType):
        return _optional(decode_nested)
    if pa.types.is_struct(kind):
        fields = {field.name: nested_converter(field.type) for field in kind}
        return _optional(lambda value: _without_nulls(value, fields))
    if pa.types.is_map(kind):
        item = nested_converter(kind.item_type)
        return _optional(lambda value: {str(name): item(one) for name, one in value})
    if _is_list(kind):
        item = nested_converter(kind.value_type)
        return _optional(lambda value: [item(one) for one in value])
    if pa.types.is_floating(kind) and kind.bit_width < 64:
        scalar = np.float16 if kind.bit_width == 16 else np.float32
        return _optional(lambda value: float(str(scalar(value))))
    return _spelled


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves."""
    while True:
        if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.JsonType | pa.UuidType | pa.Bool8Type):
            kind = kind.storage_type
        else:
            return pa.bool_() if isinstance(kind, pa.Bool8Type) else kind


def _is_list(kind: pa.DataType) -> bool:
    tests = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(test(kind) for test in tests)


def _optional(convert: Converter) -> Converter:
    return lambda value: None if value is None else convert(value)


def _without_nulls(value: dict[str, Any], fields: dict[str, Converter]) -> dict[str, Any]:
    """Arrow gives every struct of a column all keys that one of them has, filled with null."""
    return {name: fields[name](one) for name, one in value.items() if one is not None}


def _spelled(value: Any) -> Any:
    """A scalar that has no text of its own in JSON. Durations have none anywhere, and stay."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value  # an image or the like in a column that is hardly to be learned
    return value if isinstance(value, str | int | float | datetime.timedelta | None) else str(value)
