"""Composite keys, and the rule that keeps simple keys apart from them.

Room:      shim   (imports nothing)
Loop:      none
Lifetime:  none
Fabric:    `CreateCompositeKey`, shim/stub.go (fabric-chaincode-go)

A composite key is ``U+0000 type U+0000 (attribute U+0000)*``. Both limits of the code space are
kept out of the parts, so no part can pretend to be two.
"""

from __future__ import annotations

from collections.abc import Iterable

NAMESPACE = "\x00"
SEPARATOR = "\x00"
MAX_RUNE = "\U0010ffff"
FIRST_SIMPLE_KEY = "\x01"


def create_composite_key(object_type: str, attributes: Iterable[str]) -> str:
    """Join a type and its attributes into one key.

    Raises:
        ValueError: a part holds U+0000, U+10FFFF or a lone surrogate; positions count UTF-8 bytes.
    """
    parts = [object_type, *attributes]
    for part in parts:
        _check_part(part)
    return NAMESPACE + SEPARATOR.join(parts) + SEPARATOR


def split_composite_key(key: str) -> tuple[str, list[str]]:
    """Return type and attributes of a composite key.

    Raises:
        ValueError: the key was not made by `create_composite_key`.
    """
    if len(key) < 2 or key[0] != NAMESPACE or key[-1] != SEPARATOR:
        raise ValueError(f"not a composite key: {key!r}")
    object_type, *attributes = key[1:-1].split(SEPARATOR)
    return object_type, attributes


def partial_key_range(object_type: str, attributes: Iterable[str]) -> tuple[str, str]:
    """Return first key and end (exclusive) of everything below a partial composite key."""
    start = create_composite_key(object_type, attributes)
    return start, start + MAX_RUNE


def simple_key_range(start: str, end: str) -> tuple[str, str]:
    """Check both bounds and put the first simple key for an empty start.

    Raises:
        ValueError: a bound begins with U+0000, which is where composite keys live.
    """
    for key in (start, end):
        if key.startswith(NAMESPACE):
            raise ValueError(
                f"first character of the key [{key}] contains a null character which is not allowed"
            )
    return start or FIRST_SIMPLE_KEY, end


def _check_part(part: str) -> None:
    try:
        part.encode()
    except UnicodeEncodeError as exc:
        position = len(part[: exc.start].encode())
        raise ValueError(f"input is not valid text: surrogate at position [{position}]") from None
    found = [index for index in (part.find(NAMESPACE), part.find(MAX_RUNE)) if index >= 0]
    if found:
        first = min(found)
        raise ValueError(
            f"input contains unicode U+{ord(part[first]):04X} starting at position "
            f"[{len(part[:first].encode())}]. U+0000 and U+10FFFF are not allowed in the input "
            "attribute of a composite key"
        )
