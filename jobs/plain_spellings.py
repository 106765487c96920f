"""Numbers and switches written as text, which YAML 1.1, argparse and other tools read as what they mean."""

from __future__ import annotations

import re

from pydantic import BeforeValidator, Field, JsonValue

_WHOLE = r"[-+]?[0-9]+(_[0-9]+)*"
_DECIMAL = r"[-+]?([0-9]+(_[0-9]+)*\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_LONGEST = 40


def as_number(value: object) -> object:
    """The number that a text such as "2e-4" or 1_000 is; anything else as it is."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return value
    if re.fullmatch(_WHOLE, value):
        return int(value)
    return float(value) if re.fullmatch(_DECIMAL, value) else value


def as_flag(value: object) -> object:
    """The switch that yes, no, on, off or a quoted true or false is; anything else as it is."""
    return _SWITCHES.get(value.lower(), value) if isinstance(value, str) else value


def _or_text(pattern: str) -> object:
    """Adds text of this pattern to a field's JSON Schema; bounds hold for numbers alone there."""

    def extend(schema: dict[str, JsonValue]) -> None:
        if "type" in schema:
            schema["type"] = [schema["type"], "string"]
            schema["pattern"] = f"^({pattern})$"

    return Field(json_schema_extra=extend)


AS_NUMBER = (BeforeValidator(as_number), _or_text(_DECIMAL))
AS_FLAG = (BeforeValidator(as_flag), _or_text("|".join(f"{word}|{word.title()}|{word.upper()}" for word in _SWITCHES)))
