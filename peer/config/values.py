"""How the text of a setting becomes a value, and a value becomes text again.

Room:      peer.config   (imports peer.logs)
Loop:      none
Fabric:    what viper's GetBool, GetInt, GetDuration and GetSizeInBytes accept

Every source, file, environment or flag, gives text, so that one text means the same everywhere.
Where viper turns nonsense into zero without a word, these parsers raise `ValueError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from peer import logs

T = TypeVar("T")

_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9}
_NANOSECONDS |= {"m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"([-+]?)((?:{_DURATION_PART.pattern})+)", re.ASCII)
_SIZE = re.compile(r"(\d+)\s*([kmg]?)b?", re.ASCII | re.IGNORECASE)
_SIZE_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30}
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One sort of value.

    Attributes:
        name: what the reference calls it.
        parse: text → value; raises `ValueError` with what was expected.
        show: value → what `parse` reads back, as JSON knows it.
    """

    name: str
    parse: Callable[[str], T]
    show: Callable[[T], object] = lambda value: value


def parse_boolean(text: str) -> bool:
    """Read what Go's `strconv.ParseBool` reads."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError("expected true or false")


def parse_integer(text: str) -> int:
    """Read a whole number, decimal or with Go's prefixes 0x, 0o and 0b."""
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError("expected a whole number") from None


def parse_size(text: str) -> int:
    """Read a number of bytes, optionally with k, m or g (powers of 1024) and b."""
    if not (match := _SIZE.fullmatch(text)):
        raise ValueError("expected a size such as 104857600 or 100MB")
    return int(match[1]) << _SIZE_SHIFT[match[2].lower()]


def parse_duration(text: str) -> float:
    """Read a Go duration such as ``1m30s``, or a bare number of nanoseconds, as seconds."""
    if match := _DURATION.fullmatch(text):
        parts = _DURATION_PART.findall(match[2])
        total = sum(float(number) * _NANOSECONDS[unit] for number, unit in parts)
        return (-total if match[1] == "-" else total) / 1e9
    try:
        return int(text) / 1e9
    except ValueError:
        raise ValueError("expected a duration such as 300s, 1m30s or 100ms") from None


def show_duration(seconds: float) -> str:
    """Return the text that `parse_duration` reads as `seconds`, to the nanosecond."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def join_address(host: str, port: int) -> str:
    """Return ``host:port``, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(text: str) -> tuple[str, int]:
    """Split ``host:port``; an IPv6 host stands in brackets, an empty host means every one."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed) or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError("expected host:port")
    if int(port) > 65535:
        raise ValueError(f"port {port} is above 65535")
    return host[1:-1] if bracketed else host, int(port)


def _parse_address(text: str) -> str:
    if text:
        split_address(text)
    return text


def _parse_level(text: str) -> str:
    if text.lower() not in logs.LEVELS:
        raise ValueError(f"expected one of {', '.join(logs.LEVELS)}")
    return text.lower()


def _parse_log_spec(text: str) -> str:
    logs.parse_spec(text)
    return text


def _parse_log_format(text: str) -> str:
    if text.lower() in logs.FORMATS:
        return text.lower()
    if "%{" in text:  # Fabric's pattern language; the layout of our text lines is fixed
        return "text"
    raise ValueError(f"expected one of {', '.join(logs.FORMATS)}")


def parse_paths(text: str) -> tuple[str, ...]:
    """Read paths, one a line; in a single line, as variables have them, between blanks."""
    return tuple(text.splitlines() if "\n" in text else text.split())


def show_paths(paths: tuple[str, ...]) -> str:
    """Return the text that `parse_paths` reads as `paths`."""
    has_blanks = any(path.split() != [path] for path in paths)
    return "".join(f"{path}\n" for path in paths) if has_blanks else " ".join(paths)


_IMAGE_VARIABLES = {
    "$(DOCKER_NS)": "hyperledger",
    "$(TWO_DIGIT_VERSION)": "2.5",
    "$(PROJECT_VERSION)": "2.5",
    "$(ARCH)": "amd64",
}


def _parse_image(text: str) -> str:
    """Read an image name; Fabric's sample core.yaml writes some parts as variables."""
    for variable, value in _IMAGE_VARIABLES.items():
        text = text.replace(variable, value)
    if not text or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", text):
        raise ValueError("expected an image name")
    return text


def choice(options: Sequence[str]) -> Kind[str]:
    """Return the kind of a setting that is one of a few words."""

    def parse(text: str) -> str:
        if text not in options:
            raise ValueError(f"expected one of {', '.join(options)}")
        return text

    return Kind(" or ".join(options), parse)


TEXT = Kind("text", str)
BOOLEAN = Kind("boolean", parse_boolean)
INTEGER = Kind("number", parse_integer)
DURATION = Kind("duration", parse_duration, show_duration)
SIZE = Kind("size in bytes", parse_size)
ADDRESS = Kind("host:port", _parse_address)
IMAGE = Kind("image", _parse_image)
PATH = Kind("path", str)
PATHS = Kind("paths", parse_paths, show_paths)
LEVEL = Kind("log level", _parse_level)
LOG_SPEC = Kind("logging specification", _parse_log_spec)
LOG_FORMAT = Kind("text or json", _parse_log_format)
