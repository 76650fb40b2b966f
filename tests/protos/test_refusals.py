"""What the codecs refuse, case by case."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import betterproto2
import pytest

from fabric_protos import codec, errors, stream, wire
from fabric_protos.codec import DecodeError, EncodeError
from fabric_protos.common import ConfigGroup
from fabric_protos.kvrwset import KvRead, KvrwSet, KvWrite, Version
from fabric_protos.methods import with_methods
from fabric_protos.protos import ChaincodeInput, ChaincodeMessage, ChaincodeMessageType, GetState
from tests.protos.schema import EVERY

Every, Many, Maps, Maybe, One = EVERY.Every, EVERY.Many, EVERY.Maps, EVERY.Maybe, EVERY.One

READERS = [
    pytest.param(stream.ChaincodeMessage.decode, id="stream"),
    pytest.param(lambda data: codec.decode(ChaincodeMessage, data), id="codec"),
]
Reader = Callable[[bytes], Any]


def test_the_errors_are_the_same_everywhere() -> None:
    assert (codec.DecodeError, codec.EncodeError) == (errors.DecodeError, errors.EncodeError)
    assert issubclass(DecodeError, ValueError)
    assert issubclass(EncodeError, ValueError)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("08", "ChaincodeMessage is cut short"),
        ("0880", "ChaincodeMessage is cut short"),
        ("88", "ChaincodeMessage is cut short"),
        ("22", "ChaincodeMessage is cut short"),
        ("220361", "ChaincodeMessage.txid is cut short"),
        ("1a0361", "ChaincodeMessage.payload is cut short"),
        ("2a020a", "ChaincodeMessage.proposal is cut short"),
        ("2a010a", "SignedProposal is cut short"),
        ("2a020a01", "SignedProposal.proposal_bytes is cut short"),
        ("2a020a0161", "SignedProposal.proposal_bytes is cut short"),
        ("2affffffff0f", "ChaincodeMessage.proposal is cut short"),
        ("980680", "ChaincodeMessage is cut short"),
        ("9a06056162", "ChaincodeMessage is cut short"),
        ("99060000000000000000"[:-2], "ChaincodeMessage is cut short"),
        ("9d06000000", "ChaincodeMessage is cut short"),
        ("0a00", "ChaincodeMessage: field 1 has wire type 2"),
        ("2001", "ChaincodeMessage: field 4 has wire type 0"),
        ("2100000000000000", "ChaincodeMessage: field 4 has wire type 1"),
        ("2d00000000", "ChaincodeMessage: field 5 has wire type 5"),
        ("0001", "ChaincodeMessage: 0 is no field number"),
        ("0200", "ChaincodeMessage: 0 is no field number"),
        ("808080801001", "ChaincodeMessage: 536870912 is no field number"),
        ("9b069c06", "ChaincodeMessage: field 99 has wire type 3"),
        ("9c06", "ChaincodeMessage: field 99 has wire type 4"),
        ("9e06", "ChaincodeMessage: field 99 has wire type 6"),
        ("9f06", "ChaincodeMessage: field 99 has wire type 7"),
        ("0b0c", "ChaincodeMessage: field 1 has wire type 3"),
        ("08" + "80" * 10 + "00", "a varint is longer than ten bytes"),
        ("08" + "ff" * 9 + "02", "a varint is wider than 64 bits"),
        ("9806" + "ff" * 9 + "7f", "a varint is wider than 64 bits"),
        ("22" + "ff" * 9 + "02", "a varint is wider than 64 bits"),
        ("2202c328", "ChaincodeMessage: field 4 is not UTF-8"),
        ("3a03eda080", "ChaincodeMessage: field 7 is not UTF-8"),
    ],
)
def test_bytes_that_are_no_message(read: Reader, data: str, text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read(bytes.fromhex(data))
    assert str(caught.value) == text
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("read", READERS)
def test_the_widest_of_everything_is_read(read: Reader) -> None:
    message = read(bytes.fromhex("08" + "ff" * 9 + "01" + "f8ffffff0f01" + "2204f09f9880"))
    assert message.type == -1
    assert message.txid == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("12028080", "Many is cut short"),
        ("1203010280", "Many is cut short"),
        ("42ffffffffffffffff7f", "Many.fixed32s is cut short"),
        ("42040000", "Many.fixed32s is cut short"),
        ("42050100000000", "Many.fixed32s is cut short"),
        ("6a0400000000", "a floating-point number is cut short"),
        ("65000000", "a floating-point number is cut short"),
        ("45000000", "Many is cut short"),
    ],
)
def test_lists_of_numbers(data: str, text: str) -> None:
    with pytest.raises(DecodeError, match=f"^{text}$"):
        codec.decode(Many, bytes.fromhex(data))


def nested(tag: bytes, levels: int) -> bytes:
    data = b""
    for _ in range(levels):
        size = len(data)
        data = tag + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + data
    return data


@pytest.mark.parametrize(
    ("read", "tag"),
    [
        pytest.param(lambda data: codec.decode(One, data), b"\x42", id="codec"),
        pytest.param(lambda data: codec.decode(ConfigGroup, data), b"\x12", id="codec, maps"),
        pytest.param(stream.SignaturePolicy.decode, b"\x12", id="stream"),
    ],
)
def test_a_hundred_levels_of_nesting(read: Reader, tag: bytes) -> None:
    read(nested(tag, 100))
    with pytest.raises(DecodeError, match=r"nested too deep$"):
        read(nested(tag, 101))
    with pytest.raises(DecodeError, match=r"nested too deep$"):
        read(nested(tag, 5000))


def writes(count: int) -> bytes:
    """Return a list with messages of nothing in it."""
    return b"\x0a\0" * count


@pytest.mark.parametrize(
    ("read", "data", "fields"),
    [
        pytest.param(stream.WriteBatchState.decode, writes(20), 20, id="messages, stream"),
        pytest.param(stream.ChaincodeInput.decode, b"\x0a\1x" * 20, 20, id="bytes, stream"),
        pytest.param(stream.ChaincodeInput.decode, b"\x12\2\x0a\0" * 9, 18, id="maps, stream"),
        pytest.param(
            stream.ChaincodeSpec.decode, b"\x1a\x10" + b"\x0a\0" * 8, 9, id="within, stream"
        ),
        pytest.param(
            stream.SignaturePolicy.decode, nested(b"\x12", 20), 20, id="recursion, stream"
        ),
        pytest.param(lambda data: codec.decode(KvrwSet, data), writes(20), 20, id="messages"),
        pytest.param(
            lambda data: codec.decode(KvrwSet, data),
            b"\x0a\x06\x12\x04\x08\1\x10\1" * 5,
            20,
            id="within",
        ),
        pytest.param(
            lambda data: codec.decode(ConfigGroup, data), nested(b"\x12", 9), 9, id="maps"
        ),
        pytest.param(lambda data: codec.decode(One, data), nested(b"\x42", 20), 20, id="recursion"),
        pytest.param(
            lambda data: codec.decode(Many, data), b"\x12\x0f" + bytes(15), 16, id="packed"
        ),
        pytest.param(lambda data: codec.decode(Many, data), b"\x10\1" * 12, 12, id="numbers"),
        pytest.param(
            lambda data: codec.decode(Many, data),
            b"\x92\1\x04\x08\1\x10\1" * 4,
            12,
            id="timestamps",
        ),
        pytest.param(lambda data: codec.decode(Every, data), b"\xf2\x7f\0" * 9, 9, id="unknown"),
    ],
)
def test_fields_are_counted(
    monkeypatch: pytest.MonkeyPatch, read: Reader, data: bytes, fields: int
) -> None:
    monkeypatch.setattr(wire, "MAX_FIELDS", fields)
    assert len(data) > fields  # or nobody would count
    read(data)
    monkeypatch.setattr(wire, "MAX_FIELDS", fields - 1)
    with pytest.raises(DecodeError, match=f"^the message has more than {fields - 1} fields$"):
        read(data)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (writes(20) + b"\x0a", "WriteBatchState is cut short"),
        (writes(20) + b"\x0a\x02\0\0", "WriteRecord: 0 is no field number"),
        (writes(20) + b"\x0b", "WriteBatchState: field 1 has wire type 3"),
    ],
)
def test_counting_leaves_it_to_the_reader_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, data: bytes, text: str
) -> None:
    monkeypatch.setattr(wire, "MAX_FIELDS", 30)
    assert len(data) > 30
    with pytest.raises(DecodeError, match=f"^{text}$"):
        stream.WriteBatchState.decode(data)


def test_tiny_fields_are_refused_before_there_are_objects_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "MAX_FIELDS", 30_000)
    data = writes(30_001)
    for read in (stream.WriteBatchState.decode, lambda data: codec.decode(KvrwSet, data)):
        with suppress(DecodeError):
            read(data)  # compiles what it needs
        tracemalloc.start()
        try:
            with pytest.raises(DecodeError, match="more than 30000 fields"):
                read(data)
            assert tracemalloc.get_traced_memory()[1] < 100_000  # the objects would take millions
        finally:
            tracemalloc.stop()


def test_what_transactions_may_be_is_read() -> None:
    keys = [f"key-of-an-asset-{number:09}" for number in range(100_000)]
    version = Version(block_num=1_000_000, tx_num=1000)
    message = KvrwSet(
        reads=[KvRead(key=key, version=version) for key in keys],
        writes=[KvWrite(key=key, value=b"v" * 20) for key in keys],
    )
    data = codec.encode(message)
    assert len(data) > wire.MAX_FIELDS
    assert codec.decode(KvrwSet, data) == message


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        (253_402_300_800, 0),
        (-62_135_596_801, 0),
        (-1 << 63, 0),
        ((1 << 63) - 1, 0),
        (0, -1),
        (0, 10**9),
    ],
)
def test_a_time_no_datetime_holds(seconds: int, nanos: int) -> None:
    message = stream.ChaincodeMessage(timestamp=stream.Timestamp(seconds=seconds, nanos=nanos))
    data = message.encode()
    assert stream.ChaincodeMessage.decode(data) == message
    with pytest.raises(DecodeError, match=r"^a timestamp is out of range"):
        codec.decode(ChaincodeMessage, data)


def test_times_are_read_in_utc_and_written_from_any_zone() -> None:
    earliest, latest = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    for time in (earliest, latest, datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)):
        data = codec.encode(ChaincodeMessage(timestamp=time))
        assert codec.decode(ChaincodeMessage, data).timestamp == time
    east = datetime(2024, 5, 6, 7, 8, 9, tzinfo=timezone(timedelta(hours=5)))
    data = codec.encode(ChaincodeMessage(timestamp=east))
    stamp = stream.ChaincodeMessage.decode(data).timestamp
    assert stamp == stream.Timestamp(seconds=1_714_961_289)


def test_a_timestamp_that_comes_in_two_parts() -> None:
    data = bytes.fromhex("12020805120410c0843d")
    assert codec.decode(ChaincodeMessage, data).timestamp == datetime(
        1970, 1, 1, 0, 0, 5, 1000, UTC
    )


def test_the_epoch_is_an_empty_message() -> None:
    assert codec.encode(ChaincodeMessage(timestamp=datetime(1970, 1, 1, tzinfo=UTC))) == b"\x12\x00"


INT32 = "must be from -2147483648 to 2147483647"
INT64 = "must be from -9223372036854775808 to 9223372036854775807"
UINT32 = "must be from 0 to 4294967295"
UINT64 = "must be from 0 to 18446744073709551615"

BAD_FIELDS: list[tuple[betterproto2.Message, str]] = [
    (Every(an_int32=1 << 31), f"Every.an_int32 {INT32}"),
    (Every(an_int32=-(1 << 31) - 1), f"Every.an_int32 {INT32}"),
    (Every(an_int32=10**5000), f"Every.an_int32 {INT32}"),
    (Every(an_int64=1 << 63), f"Every.an_int64 {INT64}"),
    (Every(an_int64=-(1 << 63) - 1), f"Every.an_int64 {INT64}"),
    (Every(a_uint32=1 << 32), f"Every.a_uint32 {UINT32}"),
    (Every(a_uint32=-1), f"Every.a_uint32 {UINT32}"),
    (Every(a_uint64=1 << 64), f"Every.a_uint64 {UINT64}"),
    (Every(a_uint64=-1), f"Every.a_uint64 {UINT64}"),
    (Every(a_sint32=1 << 31), f"Every.a_sint32 {INT32}"),
    (Every(a_sint64=1 << 63), f"Every.a_sint64 {INT64}"),
    (Every(a_fixed32=-1), f"Every.a_fixed32 {UINT32}"),
    (Every(a_fixed64=1 << 64), f"Every.a_fixed64 {UINT64}"),
    (Every(an_sfixed32=1 << 31), f"Every.an_sfixed32 {INT32}"),
    (Every(an_sfixed64=1 << 63), f"Every.an_sfixed64 {INT64}"),
    (Every(a_color=1 << 31), f"Every.a_color {INT32}"),
    (Every(a_float=1e39), "Every.a_float is too large for its type"),
    (Every(a_double=10**5000), "Every.a_double is too large for its type"),
    (Every(a_bool=1), "Every.a_bool takes bool, not int"),
    (Every(a_bool=None), "Every.a_bool takes bool, not NoneType"),
    (Every(an_int32="1"), "Every.an_int32 takes int, not str"),
    (Every(an_int32=None), "Every.an_int32 takes int, not NoneType"),
    (Every(an_int32=1.0), "Every.an_int32 takes int, not float"),
    (Every(an_int64=True), "Every.an_int64 takes int, not bool"),
    (Every(a_color="RED"), "Every.a_color takes int, not str"),
    (Every(a_float="1"), "Every.a_float takes float, not str"),
    (Every(a_double=True), "Every.a_double takes float, not bool"),
    (Every(a_double=None), "Every.a_double takes float, not NoneType"),
    (Every(a_string=b"s"), "Every.a_string takes str, not bytes"),
    (Every(a_string=None), "Every.a_string takes str, not NoneType"),
    (Every(a_string="\ud800"), "Every.a_string holds a lone surrogate"),
    (Every(some_bytes="s"), "Every.some_bytes takes bytes, not str"),
    (Every(some_bytes=None), "Every.some_bytes takes bytes, not NoneType"),
    (Every(some_bytes=bytearray(b"b")), "Every.some_bytes takes bytes, not bytearray"),
    (Every(some_bytes=memoryview(b"b")), "Every.some_bytes takes bytes, not memoryview"),
    (Every(a_message=One()), "Every.a_message takes Every, not One"),
    (Every(a_message=b""), "Every.a_message takes Every, not bytes"),
    (Every(a_message=Every(a_string=1)), "Every.a_string takes str, not int"),
    (Every(a_time=5), "Every.a_time takes datetime, not int"),
    (Every(a_time=datetime(2024, 1, 1)), "Every.a_time has no time zone"),
    (Many(int32s=[1, None]), "Many.int32s takes int, not NoneType"),
    (Many(int32s=None), "Many.int32s takes list, not NoneType"),
    (Many(strings="text"), "Many.strings takes list, not str"),
    (Many(strings=["a", b"b"]), "Many.strings takes str, not bytes"),
    (Many(bools=[1]), "Many.bools takes bool, not int"),
    (Many(messages=[None]), "Many.messages takes Every, not NoneType"),
    (Maybe(a_string=0), "Maybe.a_string takes str, not int"),
    (One(a_sint64=""), "One.a_sint64 takes int, not str"),
    (Maps(by_int32=[]), "Maps.by_int32 takes dict, not list"),
    (Maps(by_int64={1: "1"}), "Maps.by_int64 takes int, not str"),
    (Maps(by_int64={"1": 1}), "Maps.by_int64 takes int, not str"),
    (Maps(by_int64={"1": 1, 2: 2}), "Maps.by_int64 has keys of different types"),
    (Maps(by_uint32={1: "\udfff"}), "Maps.by_uint32 holds a lone surrogate"),
    (Maps(by_bool={True: None}), "Maps.by_bool takes Every, not NoneType"),
]


@pytest.mark.parametrize(("message", "text"), BAD_FIELDS)
def test_values_a_field_cannot_carry(message: betterproto2.Message, text: str) -> None:
    with pytest.raises(EncodeError) as caught:
        codec.encode(message)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (stream.ChaincodeMessage(type="READY"), "ChaincodeMessage.type takes int, not str"),  # type: ignore[arg-type]
        (
            stream.ChaincodeMessage(type=1 << 31),
            f"ChaincodeMessage.type {INT32}",
        ),
        (stream.ChaincodeMessage(payload="x"), "ChaincodeMessage.payload takes bytes, not str"),  # type: ignore[arg-type]
        (stream.ChaincodeMessage(txid=b"x"), "ChaincodeMessage.txid takes str, not bytes"),  # type: ignore[arg-type]
        (stream.ChaincodeMessage(txid=None), "ChaincodeMessage.txid takes str, not NoneType"),  # type: ignore[arg-type]
        (stream.ChaincodeMessage(txid="\udc80"), "ChaincodeMessage.txid holds a lone surrogate"),
        (
            stream.ChaincodeMessage(proposal=stream.Proposal()),  # type: ignore[arg-type]
            "ChaincodeMessage.proposal takes SignedProposal, not Proposal",
        ),
        (stream.ChaincodeInput(args=b"ab"), "ChaincodeInput.args takes list, not bytes"),  # type: ignore[arg-type]
        (stream.ChaincodeInput(args=["a"]), "ChaincodeInput.args takes bytes, not str"),  # type: ignore[list-item]
        (
            stream.ChaincodeInput(decorations={"k": "v"}),  # type: ignore[dict-item]
            "ChaincodeInput.decorations takes bytes, not str",
        ),
        (
            stream.ChaincodeAdditionalParams(max_size_write_batch=-1),
            f"ChaincodeAdditionalParams.max_size_write_batch {UINT32}",
        ),
        (stream.SignaturePolicy(signed_by=1.5), "SignaturePolicy.signed_by takes int, not float"),  # type: ignore[arg-type]
    ],
)
def test_values_the_stream_cannot_carry(message: stream.Message, text: str) -> None:
    with pytest.raises(EncodeError) as caught:
        message.encode()
    assert str(caught.value) == text


def test_errors_hold_no_value_that_may_be_secret() -> None:
    message = stream.PutState(key="k", value="hunter2")  # type: ignore[arg-type]
    with pytest.raises(EncodeError) as caught:
        message.encode()
    assert "hunter2" not in str(caught.value)


def test_a_message_that_holds_itself() -> None:
    one = One()
    one.another = one
    with pytest.raises(EncodeError, match=r"^One is nested too deep$"):
        codec.encode(one)


def test_a_wrapped_type_without_a_codec() -> None:
    """Fabric wraps nothing but timestamps; another wrapper must not be mistaken for one."""

    text = """
@dataclass(eq=False, repr=False)
class Wrapping(betterproto2.Message):
    count: "int | None" = betterproto2.field(
        1, betterproto2.TYPE_MESSAGE, unwrap=lambda: Int32Value, optional=True
    )
"""
    with pytest.raises(TypeError, match=r"^Wrapping\.count: no codec for int$"):
        with_methods(text)


def test_unknown_enum_numbers_are_kept() -> None:
    data = bytes.fromhex("08e807")
    message = codec.decode(ChaincodeMessage, data)
    assert message.type == 1000
    assert isinstance(message.type, ChaincodeMessageType)
    assert codec.encode(message) == data
    assert stream.ChaincodeMessage.decode(data).type == 1000


def test_decoded_messages_share_nothing() -> None:
    first, second = codec.decode(ChaincodeInput, b""), codec.decode(ChaincodeInput, b"")
    first.args.append(b"a")
    first.decorations["k"] = b"v"
    assert codec.encode(second) == b""
    assert codec.decode(GetState, b"") == GetState()


def test_map_entries_are_written_by_ascending_key() -> None:
    keys = ["b", "a", "\U00010000", "\uffff", ""]
    message = ChaincodeInput(decorations=dict.fromkeys(keys, b""))
    keys_written = list(codec.decode(ChaincodeInput, codec.encode(message)).decorations)
    assert keys_written == sorted(keys, key=str.encode)
    same = stream.ChaincodeInput(decorations=dict.fromkeys(keys, b""))
    assert same.encode() == codec.encode(message)
