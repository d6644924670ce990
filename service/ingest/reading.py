"""Reading text strictly: JSON documents, and numbers that may turn out not to be numbers."""

from __future__ import annotations

from typing import Any, Self

import msgspec

from service.errors import PoisonRecord

# A sample's measurement (Telegraf's name, or "native") travels among its labels under this name.
MEASUREMENT = "__measurement__"

_JSON = msgspec.json.Decoder()


class NotANumber(float):
    """Something that stands where a number belongs: a NaN that remembers what was `found`.

    Formats do not know which names matter, so they cannot reject it themselves.
    """

    found: str

    def __new__(cls, found: str) -> Self:
        made = super().__new__(cls, "nan")
        made.found = found
        return made


def json_document(value: bytes) -> Any:
    """Return the JSON document in `value`; raises PoisonRecord. Of repeated keys the last one counts."""
    try:
        return _JSON.decode(value)
    except msgspec.ValidationError as error:
        raise PoisonRecord("out_of_range", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PoisonRecord("malformed", str(error)) from None
    except (RecursionError, MemoryError):
        raise PoisonRecord("too_large", "JSON is nested too deep") from None


def number(value: object) -> float:
    """Return `value` as a float, or a NotANumber. Booleans and text are no numbers; a huge integer is infinite."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NotANumber(value if isinstance(value, str) else type(value).__name__)
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def numeral(text: str) -> float:
    """Return the number that `text` spells in decimal, or a NotANumber; 'NaN', '+Inf' and the like are spelled too."""
    try:
        return float(text) if len(text) <= 400 and text.isascii() and "_" not in text else NotANumber(text)
    except ValueError:
        return NotANumber(text)


def label_text(name: str, value: object) -> str:
    """Return a label's text; whole numbers are welcome (GPU index). Raises PoisonRecord for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value)
    raise PoisonRecord("wrong_type", f"{name}: expected text, got {type(value).__name__}")
