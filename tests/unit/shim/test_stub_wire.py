"""Every stub method that asks the peer: the bytes it sends and what it makes of the answer.

The expected payloads come from betterproto2's classes, which share no code with the library.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

import shim
from fabric_protos import protos as p
from fabric_protos import queryresult as q
from fabric_protos.stream import ChaincodeMessageType as T
from fabric_protos.stream import KeyModification, Timestamp
from tests.unit.shim.scripted_peer import Calls, SyncCalls, transact

MAX = "\U0010ffff"
ALL_OFFERED = p.ChaincodeAdditionalParams(
    use_write_batch=True,
    max_size_write_batch=100,
    use_get_multiple_keys=True,
    max_size_get_multiple_keys=100,
)


def kv(key: str, value: bytes) -> p.QueryResultBytes:
    return p.QueryResultBytes(result_bytes=bytes(q.Kv(namespace="cc", key=key, value=value)))


def results(*records: p.QueryResultBytes, more: bool = False, page: Any = None) -> bytes:
    metadata = b"" if page is None else bytes(page)
    return bytes(p.QueryResponse(results=list(records), has_more=more, id="it", metadata=metadata))


PAGE = p.QueryMetadata(page_size=2, bookmark="b")
ROWS = results(kv("a", b"1"), kv("b", b"2"))
PAGED = results(
    kv("a", b"1"), page=p.QueryResponseMetadata(fetched_records_count=1, bookmark="next")
)
FOUND = [("a", b"1"), ("b", b"2")]
POLICY = p.StateMetadata(metakey="VALIDATION_PARAMETER", value=b"pol")
ENTRIES = bytes(
    p.StateMetadataResult(entries=[p.StateMetadata(metakey="other", value=b"x"), POLICY])
)


def state_range(start: str, end: str, collection: str = "", page: Any = None) -> Any:
    metadata = b"" if page is None else bytes(page)
    return p.GetStateByRange(start_key=start, end_key=end, collection=collection, metadata=metadata)


def rich(query: str, collection: str = "", page: Any = None) -> Any:
    metadata = b"" if page is None else bytes(page)
    return p.GetQueryResult(query=query, collection=collection, metadata=metadata)


CASES: list[tuple[str, Any, int, Any, bytes, Any]] = [
    ("get_state", ("k1",), T.GET_STATE, p.GetState(key="k1"), b"v1", b"v1"),
    ("get_state", ("none",), T.GET_STATE, p.GetState(key="none"), b"", None),
    ("put_state", ("k1", b"v1"), T.PUT_STATE, p.PutState(key="k1", value=b"v1"), b"", None),
    ("put_state", ("k", "ü"), T.PUT_STATE, p.PutState(key="k", value="ü".encode()), b"", None),
    (
        "put_state",
        ("k", bytearray(b"v")),
        T.PUT_STATE,
        p.PutState(key="k", value=b"v"),
        b"",
        None,
    ),
    ("del_state", ("k1",), T.DEL_STATE, p.DelState(key="k1"), b"", None),
    (
        "set_state_validation_parameter",
        ("k", b"pol"),
        T.PUT_STATE_METADATA,
        p.PutStateMetadata(key="k", metadata=POLICY),
        b"",
        None,
    ),
    (
        "get_state_validation_parameter",
        ("k",),
        T.GET_STATE_METADATA,
        p.GetStateMetadata(key="k"),
        ENTRIES,
        b"pol",
    ),
    (
        "get_state_validation_parameter",
        ("k",),
        T.GET_STATE_METADATA,
        p.GetStateMetadata(key="k"),
        b"",
        None,
    ),
    ("get_state_by_range", ("a", "z"), T.GET_STATE_BY_RANGE, state_range("a", "z"), ROWS, FOUND),
    ("get_state_by_range", ("", ""), T.GET_STATE_BY_RANGE, state_range("\x01", ""), ROWS, FOUND),
    (
        "get_state_by_partial_composite_key",
        ("color~name", ["blue"]),
        T.GET_STATE_BY_RANGE,
        state_range("\0color~name\0blue\0", "\0color~name\0blue\0" + MAX),
        ROWS,
        FOUND,
    ),
    ("get_query_result", ("{}",), T.GET_QUERY_RESULT, rich("{}"), ROWS, FOUND),
    (
        "get_state_by_range_with_pagination",
        ("a", "z", 2, "b"),
        T.GET_STATE_BY_RANGE,
        state_range("a", "z", page=PAGE),
        PAGED,
        ([("a", b"1")], "next", 1),
    ),
    (
        "get_state_by_partial_composite_key_with_pagination",
        ("t", ["x"], 2, "b"),
        T.GET_STATE_BY_RANGE,
        state_range("\0t\0x\0", "\0t\0x\0" + MAX, page=PAGE),
        PAGED,
        ([("a", b"1")], "next", 1),
    ),
    (
        "get_all_states_composite_key_with_pagination",
        (2, "b"),
        T.GET_STATE_BY_RANGE,
        state_range("\0", "\0" + MAX, page=PAGE),
        PAGED,
        ([("a", b"1")], "next", 1),
    ),
    (
        "get_query_result_with_pagination",
        ("{}", 2, "b"),
        T.GET_QUERY_RESULT,
        rich("{}", page=PAGE),
        PAGED,
        ([("a", b"1")], "next", 1),
    ),
    (
        "get_private_data",
        ("c1", "k"),
        T.GET_STATE,
        p.GetState(key="k", collection="c1"),
        b"v",
        b"v",
    ),
    (
        "get_private_data_hash",
        ("c1", "k"),
        T.GET_PRIVATE_DATA_HASH,
        p.GetState(key="k", collection="c1"),
        b"h",
        b"h",
    ),
    (
        "put_private_data",
        ("c1", "k1", b"v1"),
        T.PUT_STATE,
        p.PutState(key="k1", value=b"v1", collection="c1"),
        b"",
        None,
    ),
    (
        "del_private_data",
        ("c1", "k"),
        T.DEL_STATE,
        p.DelState(key="k", collection="c1"),
        b"",
        None,
    ),
    (
        "purge_private_data",
        ("c1", "k"),
        T.PURGE_PRIVATE_DATA,
        p.PurgePrivateState(key="k", collection="c1"),
        b"",
        None,
    ),
    (
        "set_private_data_validation_parameter",
        ("c1", "k", b"pol"),
        T.PUT_STATE_METADATA,
        p.PutStateMetadata(key="k", collection="c1", metadata=POLICY),
        b"",
        None,
    ),
    (
        "get_private_data_validation_parameter",
        ("c1", "k"),
        T.GET_STATE_METADATA,
        p.GetStateMetadata(key="k", collection="c1"),
        ENTRIES,
        b"pol",
    ),
    (
        "get_private_data_by_range",
        ("c1", "", "z"),
        T.GET_STATE_BY_RANGE,
        state_range("\x01", "z", "c1"),
        ROWS,
        FOUND,
    ),
    (
        "get_private_data_by_partial_composite_key",
        ("c1", "t", []),
        T.GET_STATE_BY_RANGE,
        state_range("\0t\0", "\0t\0" + MAX, "c1"),
        ROWS,
        FOUND,
    ),
    (
        "get_private_data_query_result",
        ("c1", "{}"),
        T.GET_QUERY_RESULT,
        rich("{}", "c1"),
        ROWS,
        FOUND,
    ),
]

both_styles = pytest.mark.parametrize("style", [Calls, SyncCalls], ids=["async", "sync"])


@both_styles
@pytest.mark.parametrize(
    ("name", "args", "kind", "payload", "answer", "expected"),
    CASES,
    ids=[f"{case[0]}-{number}" for number, case in enumerate(CASES)],
)
def test_one_request(
    style: Any, name: str, args: Any, kind: int, payload: Any, answer: bytes, expected: Any
) -> None:
    chaincode = style(lambda stub: getattr(stub, name)(*args))
    [request], last = transact(chaincode, [answer])
    assert (request.type, request.payload) == (kind, bytes(payload))
    assert (request.txid, request.channel_id) == ("tx1", "ch1")
    assert last.payload == bytes(p.Response(status=200))
    if isinstance(chaincode.result, shim.Page):
        page = chaincode.result
        assert (page.items, page.bookmark, page.fetched) == expected
        assert (list(page), len(page)) == (expected[0], 1)
        assert repr(page) == "Page(<1 items>, bookmark='next')"
    else:
        assert chaincode.result == expected


@pytest.mark.parametrize(
    ("call", "wire"),
    [
        (lambda s: s.get_state("k1"), "08081a040a026b3122037478313a03636831"),
        (
            lambda s: s.put_private_data("c1", "k1", b"v1"),
            "08091a0c0a026b31120276311a02633122037478313a03636831",
        ),
        (
            lambda s: s.get_state_by_range_with_pagination("", "z", 10, "k5"),
            "080e1a0e0a010112017a2206080a12026b3522037478313a03636831",
        ),
        (
            lambda s: s.invoke_chaincode("other", [b"f"], "ch2"),
            "080b1a12120b12096f746865722f6368321a030a016622037478313a03636831",
        ),
    ],
    ids=["get", "put-private", "page", "invoke"],
)
def test_whole_messages_of_the_protocol(call: Any, wire: str) -> None:
    [request], _ = transact(Calls(call), [b""])
    assert request.encode().hex() == wire


@both_styles
def test_history_has_times(style: Any) -> None:
    records = [
        KeyModification(tx_id="t2", value=b"v", timestamp=Timestamp(seconds=60, nanos=5000)),
        KeyModification(tx_id="t1", is_delete=True),
    ]
    answer = results(*(p.QueryResultBytes(result_bytes=record.encode()) for record in records))
    chaincode = style(lambda stub: stub.get_history_for_key("k"))
    [request], _ = transact(chaincode, [answer])
    assert (request.type, request.payload) == (
        T.GET_HISTORY_FOR_KEY,
        bytes(p.GetHistoryForKey(key="k")),
    )
    assert chaincode.result == [
        ("t2", b"v", datetime(1970, 1, 1, 0, 1, 0, 5, tzinfo=UTC), False),
        ("t1", b"", None, True),
    ]


# Several keys


@both_styles
def test_multiple_reads_without_support_are_single_reads(style: Any) -> None:
    chaincode = style(lambda stub: stub.get_multiple_states("a", "b"))
    requests, _ = transact(chaincode, [b"1", b""])
    assert [request.type for request in requests] == [T.GET_STATE, T.GET_STATE]
    assert chaincode.result == [b"1", None]


@both_styles
def test_no_keys_ask_nothing(style: Any) -> None:
    chaincode = style(lambda stub: stub.get_multiple_states())
    transact(chaincode, [], ready=bytes(ALL_OFFERED))
    assert chaincode.result == []


@both_styles
@pytest.mark.parametrize("count", [99, 100, 101, 200, 201])
def test_multiple_reads_come_in_chunks(style: Any, count: int) -> None:
    keys = [f"k{number}" for number in range(count)]
    chunks = [keys[start : start + 100] for start in range(0, count, 100)]
    chaincode = style(lambda stub: stub.get_multiple_private_data("c1", *keys))
    answers = [
        bytes(p.GetStateMultipleResult(values=[key.encode() for key in chunk])) for chunk in chunks
    ]
    requests, _ = transact(chaincode, answers, ready=bytes(ALL_OFFERED))
    assert [request.payload for request in requests] == [
        bytes(p.GetStateMultiple(keys=chunk, collection="c1")) for chunk in chunks
    ]
    assert {request.type for request in requests} == {T.GET_STATE_MULTIPLE}
    assert chaincode.result == [key.encode() for key in keys]


def test_a_short_multiple_answer_is_no_missing_key() -> None:
    """Fabric 3.1 hides a database failure behind an answer without values."""
    chaincode = Calls(lambda stub: stub.get_multiple_states("a", "b"))
    _, last = transact(chaincode, [b""], ready=bytes(ALL_OFFERED))
    assert p.Response.parse(last.payload).message == "the peer answered 0 values for 2 keys"


def test_a_chunk_below_100_is_100() -> None:
    offer = p.ChaincodeAdditionalParams(use_get_multiple_keys=True, max_size_get_multiple_keys=7)
    chaincode = Calls(lambda stub: stub.get_multiple_states(*(f"k{n}" for n in range(100))))
    answer = bytes(p.GetStateMultipleResult(values=[b"v"] * 100))
    requests, _ = transact(chaincode, [answer], ready=bytes(offer))
    assert len(requests) == 1


# What never reaches the peer


@both_styles
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.put_state("", b"v"), "key must not be an empty string"),
        (lambda s: s.put_private_data("c", "", b"v"), "key must not be an empty string"),
        (lambda s: s.get_private_data("", "k"), "collection must not be an empty string"),
        (lambda s: s.get_multiple_private_data("", "k"), "collection must not be an empty string"),
        (lambda s: s.get_private_data_hash("", "k"), "collection must not be an empty string"),
        (lambda s: s.put_private_data("", "k", b""), "collection must not be an empty string"),
        (lambda s: s.del_private_data("", "k"), "collection must not be an empty string"),
        (lambda s: s.purge_private_data("", "k"), "collection must not be an empty string"),
        (lambda s: s.get_private_data_by_range("", "a", "b"), "collection must not be an empty"),
        (
            lambda s: s.get_private_data_by_partial_composite_key("", "t", []),
            "collection must not be an empty string",
        ),
        (lambda s: s.get_private_data_query_result("", "{}"), "collection must not be an empty"),
        (
            lambda s: s.get_state_by_range("\0a", "b"),
            "first character of the key [\0a] contains a null character which is not allowed",
        ),
        (
            lambda s: s.get_private_data_by_range("c", "a", "\0b"),
            "first character of the key [\0b] contains a null character which is not allowed",
        ),
        (lambda s: s.get_state("\ud800"), "GetState.key holds a lone surrogate"),
        (lambda s: s.put_state("k", 5), "TypeError: expected bytes or text, not int"),
        (lambda s: s.set_event(""), "event name can not be empty string"),
        (lambda s: s.set_event("\udc80"), "lone surrogate"),
        (lambda s: s.put_state("k", bytes(101 << 20)), "the limit is 104857600"),
    ],
)
def test_refused_locally(style: Any, call: Any, message: str) -> None:
    _, last = transact(style(call))
    response = p.Response.parse(last.payload)
    assert response.status == 500
    assert message in response.message


# Chaincode to chaincode


def completed(response: p.Response) -> bytes:
    return bytes(p.ChaincodeMessage(type=p.ChaincodeMessageType.COMPLETED, payload=bytes(response)))


@both_styles
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (completed(p.Response(status=200, payload=b"v")), shim.Response(200, "", b"v")),
        (completed(p.Response(status=404, message="no")), shim.Response(404, "no")),
        (
            bytes(p.ChaincodeMessage(type=p.ChaincodeMessageType.ERROR, payload=b"boom")),
            shim.Response(500, "boom", b"boom"),
        ),
        ("INVOKE_CHAINCODE failed: x", shim.Response(500, *(["INVOKE_CHAINCODE failed: x"] * 2))),
    ],
    ids=["ok", "status", "nested-error", "refused"],
)
def test_invoke_chaincode_never_raises(style: Any, answer: Any, expected: shim.Response) -> None:
    chaincode = style(lambda stub: stub.invoke_chaincode("other", ["f", b"x"]))
    [request], last = transact(chaincode, [answer])
    assert request.payload == bytes(
        p.ChaincodeSpec(
            chaincode_id=p.ChaincodeId(name="other"), input=p.ChaincodeInput(args=[b"f", b"x"])
        )
    )
    assert chaincode.result == expected
    assert last.type == T.COMPLETED


def test_an_unreadable_callee_is_a_response() -> None:
    chaincode = Calls(lambda stub: stub.invoke_chaincode("other", []))
    transact(chaincode, [b"\xff\xff"])
    assert chaincode.result.status == 500
    assert "the answer of other cannot be read" in chaincode.result.message
