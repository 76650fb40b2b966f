"""What is told of messages and blocks."""

from __future__ import annotations

import re

import pytest

from fabric_protos.stream import (
    ChaincodeEvent,
    ChaincodeId,
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
    KeyModification,
    Kv,
    PutState,
    PutStateMetadata,
    QueryResponse,
    QueryResultBytes,
    QueryStateNext,
    Response,
    StateMetadata,
    WriteBatchState,
    WriteRecord,
    WriteRecordType,
)
from peer.dev import narration
from peer.dev.narration import Line, Narration

Type = ChaincodeMessageType
CCID = "assets:1"


class Stream:
    """One transaction on one stream, and what was told of it."""

    def __init__(self, ccid: str = CCID) -> None:
        self.lines: list[tuple[str, str, str]] = []
        self.ccid = ccid
        self.narration = Narration(self._tell)
        self.to(Type.TRANSACTION, ChaincodeInput(args=[b"f", b"a"]).encode())

    def _tell(self, line: Line) -> None:
        assert line.tx == "tx1"
        self.lines.append((line.kind, line.subject, line.detail))

    def to(self, kind: int, payload: bytes = b"") -> None:
        """Send to the chaincode."""
        self._pass(False, kind, payload)

    def said(self, kind: int, payload: bytes = b"", event: ChaincodeEvent | None = None) -> None:
        """Send from the chaincode."""
        self._pass(True, kind, payload, event)

    def _pass(
        self, incoming: bool, kind: int, payload: bytes, event: ChaincodeEvent | None = None
    ) -> None:
        message = ChaincodeMessage(
            type=kind, payload=payload, txid="tx1", channel_id="ch", chaincode_event=event
        )
        self.narration.on_message(self.ccid, incoming, message)


def results(*keys: str) -> bytes:
    found = [QueryResultBytes(result_bytes=Kv(key=key, value=b"v").encode()) for key in keys]
    return QueryResponse(results=found).encode()


MODIFICATION = QueryResultBytes(result_bytes=KeyModification(tx_id="t", value=b"v").encode())
OWNER = "\x00owner~id\x00Ada\x00asset1\x00"
META = StateMetadata(metakey="VALIDATION_PARAMETER", value=b"\x01")
R = WriteRecordType

ASKED = [
    (Type.GET_STATE, GetState(key="a"), b"1", [("read", "a", "1")]),
    (Type.GET_STATE, GetState(key="a"), b"", [("read", "a", "absent")]),
    (Type.GET_STATE, GetState(key=OWNER), b"\xff", [("read", "owner~id(Ada, asset1)", "0xff")]),
    (Type.GET_STATE, GetState(key="a", collection="c"), b"1", [("read", "a in c", "1")]),
    (
        Type.GET_PRIVATE_DATA_HASH,
        GetState(key="a", collection="c"),
        b"\x01\x02",
        [("read", "a in c", "hash 0102")],
    ),
    (
        Type.GET_STATE_MULTIPLE,
        GetStateMultiple(keys=["a", "b"]),
        GetStateMultipleResult(values=[b"1", b""]).encode(),
        [("read", "a", "1"), ("read", "b", "absent")],
    ),
    (Type.GET_STATE_METADATA, GetStateMetadata(key="a"), b"", [("policy", "a", "is read")]),
    (
        Type.GET_STATE_BY_RANGE,
        GetStateByRange(start_key="a", end_key="c"),
        results("a", "b"),
        [("range", "a … c", "2 records: a, b")],
    ),
    (
        Type.GET_QUERY_RESULT,
        GetQueryResult(query='{"selector":{}}', collection="c"),
        results(),
        [("query", '{"selector":{}} in c', "no records")],
    ),
    (
        Type.GET_HISTORY_FOR_KEY,
        GetHistoryForKey(key="a"),
        QueryResponse(results=[MODIFICATION]).encode(),
        [("history", "a", "1 values")],
    ),
    (Type.QUERY_STATE_NEXT, QueryStateNext(id="q"), results("z"), [("range", "…", "1 more")]),
    (Type.PUT_STATE, PutState(key="a", value=b"two\nlines"), b"", [("write", "a", "two lines")]),
    (Type.DEL_STATE, DelState(key="a"), b"", [("delete", "a", "")]),
    (Type.PURGE_PRIVATE_DATA, DelState(key="a", collection="c"), b"", [("purge", "a in c", "")]),
    (
        Type.PUT_STATE_METADATA,
        PutStateMetadata(key="a", metadata=META),
        b"",
        [("policy", "a", "is set")],
    ),
    (
        Type.WRITE_BATCH_STATE,
        WriteBatchState(
            rec=[
                WriteRecord(type=R.PUT_STATE, key="a", value=b"1"),
                WriteRecord(type=R.DEL_STATE, key="b"),
                WriteRecord(type=R.PURGE_PRIVATE_DATA, key="d", collection="c"),
                WriteRecord(type=R.PUT_STATE_METADATA, key="e", metadata=META),
            ]
        ),
        b"",
        [
            ("write", "a", "1"),
            ("delete", "b", ""),
            ("purge", "d in c", ""),
            ("policy", "e", "is set"),
        ],
    ),
    (
        Type.INVOKE_CHAINCODE,
        ChaincodeSpec(
            chaincode_id=ChaincodeId(name="other"), input=ChaincodeInput(args=[b"g", b"x"])
        ),
        b"",
        [("invoke", "other", "g x")],
    ),
]


@pytest.mark.parametrize(
    ("kind", "request_", "answer", "told"), ASKED, ids=[Type(each[0]).name for each in ASKED]
)
def test_requests(kind: int, request_: object, answer: bytes, told: list[object]) -> None:
    stream = Stream()
    stream.said(kind, request_.encode())  # type: ignore[attr-defined]  # a message
    stream.to(Type.RESPONSE, answer)
    assert stream.lines == [("call", "f", "a"), *told]


def test_a_request_that_is_refused() -> None:
    stream = Stream()
    stream.said(Type.GET_STATE, GetState(key="a", collection="x").encode())
    stream.to(Type.ERROR, b"GET_STATE failed: no collection")
    assert stream.lines[1:] == [("failed", "", "GET_STATE failed: no collection")]


@pytest.mark.parametrize(
    ("response", "text"),
    [
        (Response(status=200, payload=b"1234"), "4 bytes"),
        (Response(status=404, message="no\x1b[2J a"), r"no\x1b[2J a"),
    ],
)
def test_the_end_of_a_transaction(response: Response, text: str) -> None:
    stream = Stream()
    event = ChaincodeEvent(event_name="Paid", payload=b"42")
    stream.said(Type.COMPLETED, response.encode(), event)
    _, told, (kind, status, detail) = stream.lines
    assert told == ("event", "Paid", "42")
    assert (kind, status) == ("answer", str(response.status))
    assert re.fullmatch(rf"{re.escape(text)}  \(\d+\.\d ms\)", detail)
    stream.said(Type.GET_STATE, GetState(key="late").encode())
    stream.to(Type.RESPONSE, b"1")
    assert len(stream.lines) == 3


def test_a_transaction_that_breaks() -> None:
    stream = Stream()
    stream.said(Type.ERROR, b"panic")
    assert stream.lines[1:] == [("failed", "", "panic")]


def test_what_cannot_be_read_is_left_to_who_reads_it() -> None:
    stream = Stream()
    stream.said(Type.GET_STATE, b"\xff")
    stream.to(Type.ERROR, b"no")
    stream.to(Type.RESPONSE, b"nobody asked")
    assert stream.lines[1:] == [("failed", "", "no")]


def test_system_chaincodes_and_the_handshake_are_not_told() -> None:
    stream = Stream("_lifecycle.syscc")
    stream.narration.on_message(CCID, False, ChaincodeMessage(type=Type.READY))
    assert stream.lines == []


def test_long_values_are_cut() -> None:
    stream = Stream()
    stream.said(Type.PUT_STATE, PutState(key="k" * 5000, value=b"v" * 10_000_000).encode())
    stream.said(Type.PUT_STATE, PutState(key="k", value=b"\xff" * 10_000_000).encode())
    for _, subject, detail in stream.lines[1:]:
        assert len(subject) <= narration.MAX_TEXT + 1
        assert len(detail) == narration.MAX_TEXT + 1


def test_what_never_ends_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narration, "REMEMBERED", 2)
    lines: list[Line] = []
    told = Narration(lines.append)
    payload = ChaincodeInput(args=[b"f"]).encode()
    for tx in ("1", "2", "3"):
        told.on_message(CCID, False, ChaincodeMessage(type=Type.INIT, txid=tx, payload=payload))
    asked = GetState(key="a").encode()
    for tx in ("1", "3"):
        told.on_message(CCID, True, ChaincodeMessage(type=Type.GET_STATE, txid=tx, payload=asked))
        told.on_message(CCID, False, ChaincodeMessage(type=Type.RESPONSE, txid=tx))
    assert [line.tx for line in lines if line.kind == "read"] == ["3"]
