"""Tell what transactions read, write and announce, as it happens.

Room:      peer.dev   (imports events, logs, fabric_protos; used by session and cli)
Loop:      Trio; called in the midst of a stream, so nothing waits
Lifetime:  a session
Fabric:    none
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

from fabric_protos.common import Block
from fabric_protos.errors import DecodeError
from fabric_protos.stream import (
    ChaincodeInput,
    ChaincodeMessage,
    ChaincodeMessageType,
    ChaincodeSpec,
    DelState,
    GetHistoryForKey,
    GetQueryResult,
    GetState,
    GetStateByRange,
    GetStateMetadata,
    GetStateMultiple,
    GetStateMultipleResult,
    Kv,
    PutState,
    PutStateMetadata,
    QueryResponse,
    Response,
    WriteBatchState,
    WriteRecordType,
)
from peer import logs
from peer.events.filtered import transactions
from peer.ledger.api import ValidationCode
from peer.ledger.blocks import header_of

Type = ChaincodeMessageType

MAX_TEXT = 1000
"""Characters of a key or value that are told."""
REMEMBERED = 1000
"""Executions, and transactions, whose end is looked out for; one whose stream broke has none."""
SYSTEM_SUFFIX = ".syscc"

Kind = Literal[
    "call", "read", "range", "query", "history", "write", "delete", "purge", "policy", "invoke",
    "event", "answer", "block", "failed", "output", "change", "start", "ready",
]  # fmt: skip


class Line(NamedTuple):
    """One thing that happened.

    Attributes:
        tx: the transaction's id; empty where it is of none.
        subject: a key, a name, a status.
        detail: a value, or what else there is to say; may have several lines where `kind` is
            `failed`.
    """

    kind: Kind
    tx: str = ""
    subject: str = ""
    detail: str = ""


Tell = Callable[[Line], None]


@dataclass(slots=True)
class _Call:
    """An execution under way, and what it waits for."""

    began: float = field(default_factory=time.perf_counter)
    asked: ChaincodeMessage | None = None


class Narration:
    """Turns the messages of chaincode streams, and blocks, into lines.

    Args:
        tell: is handed each line; must not wait.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._calls: dict[tuple[str, str, str], _Call] = {}
        self._unjudged: dict[str, None] = {}

    def on_message(self, ccid: str, from_chaincode: bool, message: ChaincodeMessage) -> None:
        """Tell of a message; a `Trace` for `open_peer`."""
        if ccid.endswith(SYSTEM_SUFFIX) or not message.txid:
            return
        key = (ccid, message.channel_id, message.txid)
        try:
            if message.type in (Type.TRANSACTION, Type.INIT):
                _remember(self._calls, key, _Call())
                _remember(self._unjudged, message.txid, None)
                self._say("call", message, *_call(ChaincodeInput.decode(message.payload).args))
            elif (call := self._calls.get(key)) is None:
                return
            elif not from_chaincode:
                self._answered(call, message)
            elif message.type == Type.COMPLETED:
                self._completed(call, message)
            elif message.type == Type.ERROR:
                self._say("failed", message, "", shown(message.payload))
            else:
                call.asked = message
                for kind, subject, detail in _asked(message):
                    self._say(kind, message, subject, detail)
        except DecodeError:  # the chaincode is told
            return
        finally:
            if from_chaincode and message.type in (Type.COMPLETED, Type.ERROR):
                self._calls.pop(key, None)

    def on_block(self, block: Block) -> None:
        """Tell of the verdicts on transactions that were told of."""
        number = header_of(block).number
        for each in transactions(block):
            if each.tx_id in self._unjudged:
                del self._unjudged[each.tx_id]
                verdict = ValidationCode(each.code).name
                self._tell(Line("block", each.tx_id, str(number), verdict))

    def _answered(self, call: _Call, message: ChaincodeMessage) -> None:
        asked, call.asked = call.asked, None
        if asked is None:
            return
        if message.type == Type.ERROR:
            self._say("failed", message, "", shown(message.payload))
            return
        for kind, subject, detail in _found(asked, message.payload):
            self._say(kind, message, subject, detail)

    def _completed(self, call: _Call, message: ChaincodeMessage) -> None:
        event = message.chaincode_event
        if event is not None and event.event_name:
            self._say("event", message, printable(event.event_name), shown(event.payload))
        response = Response.decode(message.payload)
        took_ms = (time.perf_counter() - call.began) * 1e3
        text = printable(response.message) or f"{len(response.payload)} bytes"
        self._say("answer", message, str(response.status), f"{text}  ({took_ms:.1f} ms)")

    def _say(self, kind: Kind, message: ChaincodeMessage, subject: str, detail: str) -> None:
        self._tell(Line(kind, message.txid, subject, detail))


_Part = tuple[Kind, str, str]
_K = TypeVar("_K")
_V = TypeVar("_V")


def _remember(entries: dict[_K, _V], key: _K, value: _V) -> None:
    entries[key] = value
    if len(entries) > REMEMBERED:
        del entries[next(iter(entries))]


def _call(args: Sequence[bytes]) -> tuple[str, str]:
    function, *rest = map(shown, args or [b""])
    return function, " ".join(rest)


def _asked(message: ChaincodeMessage) -> Iterator[_Part]:
    """Yield what a request says by itself; of what it asks for the answer tells."""
    payload = message.payload
    match message.type:
        case Type.PUT_STATE:
            put = PutState.decode(payload)
            yield "write", place(put.key, put.collection), shown(put.value)
        case Type.DEL_STATE:
            gone = DelState.decode(payload)
            yield "delete", place(gone.key, gone.collection), ""
        case Type.PURGE_PRIVATE_DATA:
            gone = DelState.decode(payload)
            yield "purge", place(gone.key, gone.collection), ""
        case Type.PUT_STATE_METADATA:
            meta = PutStateMetadata.decode(payload)
            yield "policy", place(meta.key, meta.collection), "is set"
        case Type.WRITE_BATCH_STATE:
            for record in WriteBatchState.decode(payload).rec:
                where = place(record.key, record.collection)
                match record.type:
                    case WriteRecordType.PUT_STATE:
                        yield "write", where, shown(record.value)
                    case WriteRecordType.DEL_STATE:
                        yield "delete", where, ""
                    case WriteRecordType.PURGE_PRIVATE_DATA:
                        yield "purge", where, ""
                    case WriteRecordType.PUT_STATE_METADATA:
                        yield "policy", where, "is set"
        case Type.INVOKE_CHAINCODE:
            spec = ChaincodeSpec.decode(payload)
            name = spec.chaincode_id.name if spec.chaincode_id else ""
            yield "invoke", printable(name), " ".join(_call(spec.input.args if spec.input else []))


def _found(asked: ChaincodeMessage, payload: bytes) -> Iterator[_Part]:
    """Yield what was asked for, and what was found."""
    request = asked.payload
    match asked.type:
        case Type.GET_STATE:
            get = GetState.decode(request)
            yield "read", place(get.key, get.collection), shown(payload)
        case Type.GET_PRIVATE_DATA_HASH:
            get = GetState.decode(request)
            yield "read", place(get.key, get.collection), f"hash {payload.hex() or 'absent'}"
        case Type.GET_STATE_MULTIPLE:
            several = GetStateMultiple.decode(request)
            values = GetStateMultipleResult.decode(payload).values
            for key, value in zip(several.keys, values, strict=False):
                yield "read", place(key, several.collection), shown(value)
        case Type.GET_STATE_METADATA:
            meta = GetStateMetadata.decode(request)
            yield "policy", place(meta.key, meta.collection), "is read"
        case Type.GET_STATE_BY_RANGE:
            bounds = GetStateByRange.decode(request)
            ends = f"{name_of(bounds.start_key)} … {name_of(bounds.end_key)}"
            yield "range", place(ends, bounds.collection), _records(payload)
        case Type.GET_QUERY_RESULT:
            rich = GetQueryResult.decode(request)
            yield "query", place(rich.query, rich.collection), _records(payload)
        case Type.GET_HISTORY_FOR_KEY:
            key = GetHistoryForKey.decode(request).key
            count = len(QueryResponse.decode(payload).results)
            yield "history", name_of(key), f"{count} values"
        case Type.QUERY_STATE_NEXT:
            yield "range", "…", f"{len(QueryResponse.decode(payload).results)} more"


def _records(payload: bytes) -> str:
    keys = [Kv.decode(each.result_bytes).key for each in QueryResponse.decode(payload).results]
    return f"{len(keys)} records: {', '.join(map(name_of, keys))}" if keys else "no records"


def place(key: str, collection: str) -> str:
    """Return a key as it is told, with the private data collection it is in."""
    return f"{name_of(key)} in {printable(collection)}" if collection else name_of(key)


def name_of(key: str) -> str:
    """Return a key for people; a composite one as ``type(attribute, attribute)``."""
    if key.startswith("\x00") and key.endswith("\x00") and len(key) > 1:
        kind, *attributes = key[1:-1].split("\x00")
        return printable(f"{kind}({', '.join(attributes)})")
    return printable(key)


def shown(value: bytes) -> str:
    """Return a value for people: text, or hex digits where it is none; nothing is ``absent``."""
    if not value:
        return "absent"
    try:
        return printable(value.decode())
    except UnicodeDecodeError:
        return _cut("0x" + value[:MAX_TEXT].hex())


def printable(text: str) -> str:
    """Return text on one line, that steers no terminal and has a bounded length."""
    return _cut(" ".join(_lines(logs.printable(text[: 2 * MAX_TEXT]))))


def _lines(text: str) -> Iterable[str]:
    return (line.strip() for line in text.splitlines())


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"
