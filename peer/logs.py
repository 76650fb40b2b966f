"""Log lines that say which chaincode, channel and transaction they are about.

Room:      peer.logs   (a leaf: imports nothing of ours)
Loop:      none
Fabric:    common/flogging/{loggerlevels,logging}.go (release-2.5)

A library never configures logging: `open_peer` only logs, the command line calls `configure`, and
`activate` is for who operates a peer and asks for other levels. These belong to the program, as
logging does, not to one peer of it. The ids live in a context variable, so a task started inside
`bind` inherits them; a callback of the asyncio side does not.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import NamedTuple, Protocol

OURS = ("peer", "runtimes")
"""Loggers the default level is for; a library stays at WARNING unless it is named."""

FORMATS = ("text", "json")

LEVELS: Mapping[str, int] = MappingProxyType(
    {
        "payload": logging.DEBUG,
        "debug": logging.DEBUG,
        "info": logging.INFO,
        "notice": logging.INFO,
        "warning": logging.WARNING,
        "warn": logging.WARNING,
        "error": logging.ERROR,
        "critical": logging.ERROR,
        "dpanic": logging.CRITICAL,
        "panic": logging.CRITICAL,
        "fatal": logging.CRITICAL,
    }
)
"""Fabric's level names, compared without regard to case."""

_NAMES = {10: "debug", 20: "info", 30: "warn", 40: "error", 50: "fatal"}
"""What Fabric calls the levels when it tells them."""
MAX_MESSAGE = 16 * 1024
"""Characters of one record without its traceback; much of what is told of was sent by others."""
MAX_ID = 256
_LOGGER_NAME = re.compile(r"[A-Za-z0-9_#-]+(\.[A-Za-z0-9_#-]+)*\.?")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_CONTROLS |= {ord("\t"): "\t", ord("\n"): "\n    ", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_ID_NAMES = ("ccid", "channel", "tx")
_Ids = tuple[str, str, str]
_ids: ContextVar[_Ids] = ContextVar("peer.logs.ids", default=("", "", ""))
"""In the order of their names; an empty one is not bound."""


def bind(*, ccid: str = "", channel: str = "", tx: str = "") -> AbstractContextManager[None]:
    """Add ids to every record logged in this context; an empty one keeps what is bound."""
    return _Binding((ccid, channel, tx))


class _Binding:
    """Every call enters some, and few log: a generator would cost it four times as much."""

    __slots__ = ("_given", "_token")

    def __init__(self, given: _Ids) -> None:
        self._given = given

    def __enter__(self) -> None:
        ccid, channel, tx = self._given
        outer_ccid, outer_channel, outer_tx = _ids.get()
        ids = (ccid or outer_ccid, channel or outer_channel, tx or outer_tx)
        self._token: Token[_Ids] = _ids.set(ids)

    def __exit__(self, *exc: object) -> None:
        _ids.reset(self._token)


def bound() -> Mapping[str, str]:
    """Return the ids bound here, for a handler of one's own."""
    return {name: value for name, value in zip(_ID_NAMES, _ids.get(), strict=True) if value}


def chaincode_logger(name: str) -> logging.Logger:
    """Return the logger of one chaincode's output, named after its container as in Fabric."""
    return logging.getLogger(f"peer.chaincode.{name}")


def printable(text: str) -> str:
    """Return text that cannot steer a terminal: without colours, control characters shown."""
    return _COLOUR.sub("", text).translate(_CONTROLS)


class Stream(Protocol):
    """Where records are written to: a text file, or what stands before one."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class Spec(NamedTuple):
    """A parsed logging specification.

    Attributes:
        default: level of everything not named.
        levels: logger name → level of it and its children. A name that ends in a dot is that
            logger alone.
    """

    default: int
    levels: Mapping[str, int]

    def level(self, logger: str) -> int:
        """Return the level that holds for a logger."""
        if f"{logger}." in self.levels:
            return self.levels[f"{logger}."]
        prefix = logger
        while prefix:
            if prefix in self.levels:
                return self.levels[prefix]
            prefix = prefix.rpartition(".")[0]
        ours = logger.partition(".")[0] in OURS
        return self.default if ours else max(self.default, logging.WARNING)

    def __str__(self) -> str:
        """Return the specification as Fabric tells it: loggers sorted, then the default."""
        levels = [f"{name}={_NAMES[level]}" for name, level in sorted(self.levels.items())]
        return ":".join([*levels, _NAMES[self.default]])


def parse_spec(text: str) -> Spec:
    """Read ``info``, ``peer.chaincode=debug:warning``, ``a,b=error`` and the like.

    Raises:
        ValueError: which segment is wrong, in Fabric's words.

    Source: LoggerLevels.ActivateSpec, common/flogging/loggerlevels.go (release-2.5).
    """

    def bad(reason: str) -> ValueError:
        return ValueError(f"invalid logging specification '{text}': {reason}")

    default, levels = logging.INFO, dict[str, int]()
    for segment in text.split(":"):
        names, equals, level_name = segment.rpartition("=")
        if not segment:
            continue
        if level_name.lower() not in LEVELS or "=" in names:
            raise bad(f"bad segment '{segment}' (levels: {', '.join(LEVELS)})")
        level = LEVELS[level_name.lower()]
        if not equals:
            default = level
        elif not names:
            raise bad(f"no logger specified in segment '{segment}'")
        else:
            for name in names.split(","):
                if not _LOGGER_NAME.fullmatch(name):
                    raise bad(f"bad logger name '{name}'")
                levels[name] = level
    return Spec(default, levels)


def configure(spec: str = "info", format: str = "text", *, stream: Stream | None = None) -> None:  # noqa: A002 - the setting is called format
    """Send log records to `stream` (standard error) at the levels of `spec`.

    May be called again, with the new specification taking the place of the old one; other handlers
    are left alone.

    Raises:
        ValueError: a bad specification or an unknown format; nothing has changed then.
    """
    parsed = parse_spec(spec)
    if format not in FORMATS:
        raise ValueError(f"unknown log format '{format}' (known: {', '.join(FORMATS)})")
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter())
    root.addHandler(handler)
    _levels.activate(parsed)


def activate(spec: str) -> None:
    """Let another specification hold from now on.

    Raises:
        ValueError: a bad one; nothing has changed then.
    """
    _levels.activate(parse_spec(spec))


def active() -> Spec:
    """Return the specification that holds."""
    return _levels.spec


def entries() -> Mapping[str, tuple[int, int]]:
    """Return how many records were looked at, and how many written, by the name of their level.

    What a logger does not let through is not looked at.
    """
    return {name: (_checked[name], _written[name]) for name in _NAMES.values()}


class _Levels:
    """The specification that holds, and the loggers it has set."""

    def __init__(self) -> None:
        self.spec = parse_spec("")
        self._loggers: list[logging.Logger] = []

    def activate(self, spec: Spec) -> None:
        for logger in self._loggers:
            logger.setLevel(logging.NOTSET)
        self.spec = spec
        self._loggers = [
            logging.getLogger(name.removesuffix(".")) for name in (*OURS, *spec.levels)
        ]
        for logger in self._loggers:
            # "name." is not for the children: let the more talkative level through the logger and
            # leave the choice to the handler.
            children = spec.level(f"{logger.name}.*")
            logger.setLevel(min(spec.level(logger.name), children))


_levels = _Levels()
_checked, _written = Counter[str](), Counter[str]()


class _Handler(logging.StreamHandler[Stream]):
    """The handler `configure` installs."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a record if the specification wants it; from any thread."""
        name = _NAMES[min(max(record.levelno // 10, 1), 5) * 10]
        self.acquire()
        try:
            _checked[name] += 1
            if record.levelno < _levels.spec.level(record.name):
                return False
            _written[name] += 1
            return bool(super().handle(record))
        finally:
            self.release()


def _short_ids() -> dict[str, str]:
    """Return the ids bound here, as far as they can be any."""
    return {name: _cut(value, MAX_ID) for name, value in bound().items()}


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


class _TextFormatter(logging.Formatter):
    """One line for people. What a chaincode wrote can neither forge a record nor steer a terminal:
    control characters are shown and continuation lines indented."""

    def format(self, record: logging.LogRecord) -> str:
        message = _cut(record.getMessage(), MAX_MESSAGE)
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        ids = _short_ids()
        if "tx" in ids:
            ids["tx"] = ids["tx"][:8]
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        head = f"{moment}.{int(record.msecs):03d} {record.levelname:<7} {record.name}: "
        text = "".join(f"{name}={value} " for name, value in ids.items()) + message
        return head + printable(text)


class _JsonFormatter(logging.Formatter):
    """One JSON object a line for machines; ids in full, time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "ts": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "name": record.name,
            "msg": _cut(record.getMessage(), MAX_MESSAGE),
            **_short_ids(),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)
