"""Both codecs and google's protobuf read and write the same bytes, for every message."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabric_protos.wire import varint_bytes
from tests.protos.schema import CODECS, EVERY, Codec, find
from tests.protos.values import contents, fill, google_tree, has_map, our_tree

EVERY_TYPE = [one for one in CODECS if one.descriptor.file.package == "every_type"]
VARINTS = {F.TYPE_BOOL, F.TYPE_ENUM, F.TYPE_INT32, F.TYPE_INT64, F.TYPE_UINT32, F.TYPE_UINT64}
VARINTS |= {F.TYPE_SINT32, F.TYPE_SINT64}
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


def agree(codec: Codec, google: Any) -> None:
    """Check that we read google's bytes as google means them, and write the same again."""
    data = google.SerializeToString(deterministic=True)
    ours = codec.decode(data)
    assert our_tree(ours, codec.descriptor) == google_tree(google, micros=codec.kind == "codec")
    encoded = codec.encode(ours)
    if has_map(codec.descriptor):  # google writes the entries of a map in another order
        assert len(encoded) == len(data)
        encoded = codec.google.FromString(encoded).SerializeToString(deterministic=True)
    assert encoded == data


def test_every_message_has_a_codec() -> None:
    assert len([one for one in CODECS if one.kind == "codec"]) > 150
    assert len([one for one in CODECS if one.kind == "stream"]) > 40


@pytest.mark.parametrize("codec", CODECS, ids=str)
@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=SLOW)
def test_round_trip(codec: Codec, data: st.DataObject) -> None:
    agree(codec, fill(codec.google(), data.draw(contents(codec.descriptor))))


@pytest.mark.parametrize("codec", EVERY_TYPE, ids=str)
@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=SLOW)
def test_round_trip_of_every_type(codec: Codec, data: st.DataObject) -> None:
    agree(codec, fill(codec.google(), data.draw(contents(codec.descriptor))))


@pytest.mark.parametrize(
    "codec",
    [
        *EVERY_TYPE,
        find("common.SignaturePolicyEnvelope", "stream"),
        find("protos.ChaincodeMessage", "stream"),
        find("protos.ChaincodeMessage"),
        find("protos.ChaincodeSpec", "stream"),
        find("kvrwset.RangeQueryInfo"),
    ],
    ids=str,
)
@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=SLOW)
def test_one_message_after_another_merges(codec: Codec, data: st.DataObject) -> None:
    """Two encodings in a row are one message: lists grow, oneofs switch, sub-messages merge."""
    halves = [
        fill(codec.google(), data.draw(contents(codec.descriptor))).SerializeToString()
        for _ in range(2)
    ]
    both = b"".join(halves)
    google = codec.google.FromString(both)
    ours = codec.decode(both)
    assert our_tree(ours, codec.descriptor) == google_tree(google, micros=codec.kind == "codec")


def test_each_packable_type_is_read_unpacked() -> None:
    codec = find("every_type.Many")
    google = codec.google()
    one = find("every_type.Every").google(a_color=-1)
    data = b""
    for field in codec.descriptor.fields[:13]:
        getattr(google, field.name).extend([1, 0, 1])
        single = one.DESCRIPTOR.fields_by_number[field.number]
        on, off = (type(one)(**{single.name: value}).SerializeToString() for value in (1, 0))
        zero = on[:1] + bytes(len(on) - 1)
        assert off == b""
        data += on + zero + on
    google.colors.extend([-1, -1])
    data += one.SerializeToString() * 2
    ours = codec.decode(data)
    assert our_tree(ours, codec.descriptor) == google_tree(google, micros=True)
    assert codec.encode(ours) == google.SerializeToString()


def test_unknown_fields_are_kept_behind_the_known_ones() -> None:
    every = EVERY.Every(
        a_string="s", a_double=2.5, a_uint64=1 << 63, a_message=EVERY.Every(a_bool=True)
    )
    data = find("every_type.Every").encode(every)
    nothing = find("every_type.Nothing")
    assert nothing.encode(nothing.decode(data)) == data
    one = find("every_type.One")
    known = one.google(beside="here").SerializeToString()
    foreign = b"\x58\x01" + b"\x61" + bytes(8) + b"\x6d" + bytes(4)
    assert one.encode(one.decode(foreign + known)) == known + foreign


def test_unknown_fields_of_a_repeated_sub_message_are_all_kept() -> None:
    codec = find("every_type.Maybe")
    tag = b"\xfa\xff\xff\xff\x0f"
    inner = [b"\xf8\x07\x01", b"\xf8\x07\x02"]
    data = b"".join(tag + bytes([len(part)]) + part for part in inner)
    assert codec.encode(codec.decode(data)) == tag + b"\x06" + b"".join(inner)


def test_unknown_fields_are_dropped_from_the_stream() -> None:
    codec = find("protos.GetState", "stream")
    data = codec.google(key="k").SerializeToString()
    assert codec.encode(codec.decode(b"\x98\x06\x01" + data + b"\xa2\x06\x02xy")) == data


@given(value=st.integers(0, (1 << 64) - 1) | st.integers(0, 1 << 34))
@settings(max_examples=150, deadline=None)
def test_numbers_are_cut_to_their_type_as_google_does(value: int) -> None:
    """Every varint type from every 64-bit number, alone, packed and as key or value of a map."""
    number = varint_bytes(value)
    for name in ("every_type.Every", "every_type.Many", "every_type.Maybe", "every_type.One"):
        codec = find(name)
        for field in codec.descriptor.fields:
            tag = varint_bytes(field.number << 3)
            if field.type in VARINTS:
                same(codec, tag + number)
                if field.is_repeated:
                    same(codec, varint_bytes(field.number << 3 | 2) + block(number * 2))
    maps = find("every_type.Maps")
    for field in maps.descriptor.fields:
        for part in field.message_type.fields:
            if part.type in VARINTS:
                entry = varint_bytes(part.number << 3) + number
                same(maps, varint_bytes(field.number << 3 | 2) + block(entry))


def test_entries_without_key_or_value_have_the_defaults() -> None:
    codec = find("every_type.Maps")
    for field in codec.descriptor.fields:
        same(codec, varint_bytes(field.number << 3 | 2) + b"\x00")
    message = codec.decode(b"\x0a\x00")
    assert message.by_bool == {False: EVERY.Every()}


def same(codec: Codec, data: bytes) -> None:
    """Check that *data* means the same to google and to us."""
    google = google_tree(codec.google.FromString(data), micros=True)
    assert our_tree(codec.decode(data), codec.descriptor) == google


def block(data: bytes) -> bytes:
    return varint_bytes(len(data)) + data
