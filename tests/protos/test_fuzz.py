"""Random bytes: our decoders accept what google's accepts, and raise nothing but `DecodeError`.

`STRICTER`, `LAXER` and `OTHERWISE` are all the places where we mean to differ. What a sequence of
bytes contains is found by a walk over it that shares nothing with the decoders.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError as GoogleError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabric_protos.errors import DecodeError
from tests.protos.schema import CODECS, TIMESTAMP, Codec, find, google_class, is_map
from tests.protos.values import contents, fill, google_tree, our_tree

STRICTER = {
    "wrong wire type": "google keeps such a field as unknown: the sender's value silently vanishes",
    "group": "proto3 has none, and no Fabric release ever sent one",
    "wide varint": "google drops what is above 64 bits; such a number has no meaning",
    "field number 0": "google lets it pass in messages without fields; no field can have it",
    "impossible time": "a datetime cannot hold it (codec only; the stream keeps plain numbers)",
}
LAXER = {
    "long tag": "google stops at five bytes for tags and lengths; Go's decoder, which Fabric runs,"
    " takes any varint",
}
OTHERWISE = {
    "unknown field in an entry": "google keeps the whole map entry as an unknown field; we keep the"
    " entry and drop the field, as Go does",
}

WIRE_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: 1,
    FieldDescriptor.TYPE_FIXED64: 1,
    FieldDescriptor.TYPE_SFIXED64: 1,
    FieldDescriptor.TYPE_STRING: 2,
    FieldDescriptor.TYPE_BYTES: 2,
    FieldDescriptor.TYPE_MESSAGE: 2,
    FieldDescriptor.TYPE_FLOAT: 5,
    FieldDescriptor.TYPE_FIXED32: 5,
    FieldDescriptor.TYPE_SFIXED32: 5,
}


class _Malformed(Exception):
    pass


def oddities(data: bytes, descriptor: Descriptor) -> set[str]:
    """Return which of the deliberate differences *data* has, up to where it makes no sense."""
    found: set[str] = set()
    try:
        for oddity in _walk(data, descriptor):
            found.add(oddity)
    except _Malformed:
        pass
    return found


def _walk(data: bytes, descriptor: Descriptor) -> Iterator[str]:
    if descriptor.full_name == TIMESTAMP:
        yield from _impossible(data)
    pos = 0
    while pos < len(data):
        tag, size = _varint(data, pos)
        pos += size
        if size > 5:
            yield "long tag"
        field = descriptor.fields_by_number.get(tag >> 3)
        wire_type = tag & 7
        if tag >> 3 == 0:
            yield "field number 0"
        if wire_type in (3, 4):
            yield "group"
            raise _Malformed
        if field is None:
            if descriptor.GetOptions().map_entry:
                yield "unknown field in an entry"
        else:
            expected = WIRE_TYPES.get(field.type, 0)
            if wire_type != expected and not (field.is_repeated and wire_type == 2):
                yield "wrong wire type"
        if wire_type == 0:
            value, size = _varint(data, pos)
            if value >> 64:
                yield "wide varint"
        elif wire_type == 2:
            length, size = _varint(data, pos)
            if size > 5:
                yield "long tag"
            pos += size
            size = length
            block = data[pos : pos + length]
            if field is not None and field.message_type:
                yield from _walk(block, field.message_type)
            elif field is not None and WIRE_TYPES.get(field.type, 0) == 0:
                yield from _packed(block)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise _Malformed
        pos += size


def _packed(block: bytes) -> Iterator[str]:
    pos = 0
    while pos < len(block):
        value, size = _varint(block, pos)
        pos += size
        if value >> 64:
            yield "wide varint"


def _impossible(data: bytes) -> Iterator[str]:
    try:
        time = google_class(TIMESTAMP).FromString(data)
    except GoogleError:
        return
    if not (0 <= time.nanos < 10**9 and -62_135_596_800 <= time.seconds <= 253_402_300_799):
        yield "impossible time"


def _varint(data: bytes, pos: int) -> tuple[int, int]:
    for size in range(1, 11):
        chunk = data[pos : pos + size]
        if len(chunk) < size:
            raise _Malformed
        if chunk[-1] < 128:
            return sum((byte & 127) << 7 * place for place, byte in enumerate(chunk)), size
    raise _Malformed


def check(codec: Codec, data: bytes) -> None:
    """Decode *data* on both sides and compare the outcomes."""
    google: Any = None
    ours: Any = None
    try:
        google = codec.google.FromString(data)
    except GoogleError:
        google = None
    try:
        ours = codec.decode(data)
    except DecodeError:
        ours = None
    if google is not None and ours is not None:
        same = our_tree(ours, codec.descriptor) == google_tree(google, micros=codec.kind == "codec")
        assert same or oddities(data, codec.descriptor) & OTHERWISE.keys()
        again = codec.decode(codec.encode(ours))
        assert our_tree(again, codec.descriptor) == our_tree(ours, codec.descriptor)
    elif google is not None:
        assert oddities(data, codec.descriptor) & STRICTER.keys()
    elif ours is not None:
        assert oddities(data, codec.descriptor) & LAXER.keys()


def _length(size: int) -> bytes:
    return bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])


def _soup(descriptor: Descriptor) -> st.SearchStrategy[bytes]:
    """Return bytes that look like the message: right and wrong tags, lengths that may fit."""
    numbers = st.sampled_from([0, 15, 16, 999, *descriptor.fields_by_number])
    tags = st.tuples(numbers, st.integers(0, 7)).map(lambda tag: _tag(tag[0] << 3 | tag[1]))
    blocks = st.binary(max_size=20).map(lambda block: _length(len(block)) + block)
    return st.lists(tags | blocks | st.binary(max_size=12), max_size=12).map(b"".join)


def _tag(tag: int) -> bytes:
    out = bytearray()
    while tag > 127:
        out.append(tag & 127 | 128)
        tag >>= 7
    return bytes([*out, tag])


@st.composite
def _mutated(draw: st.DrawFn, codec: Codec) -> bytes:
    """Return an encoded message with a few bytes replaced, inserted or cut out."""
    data = bytearray(fill(codec.google(), draw(contents(codec.descriptor))).SerializeToString())
    for _ in range(draw(st.integers(1, 4))):
        pos = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 2))
        data[pos : pos + cut] = draw(
            st.binary(max_size=3) | st.sampled_from([b"\xff" * 9, b"\x80" * 5 + b"\x00", b"\x7f"])
        )
    return bytes(data)


SUBJECTS = [
    *(one for one in CODECS if one.descriptor.file.package == "every_type"),
    *(one for one in CODECS if one.kind == "stream" and len(one.descriptor.fields) > 1),
    find("protos.ChaincodeMessage"),
    find("protos.ChaincodeActionPayload"),
    find("kvrwset.KVRWSet"),
    find("common.ConfigUpdate"),
    find("lifecycle.QueryInstalledChaincodesResult"),
]


@pytest.mark.parametrize("codec", SUBJECTS, ids=str)
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_bytes_of_any_kind(codec: Codec, data: st.DataObject) -> None:
    check(codec, data.draw(_soup(codec.descriptor) | _mutated(codec)))


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_every_prefix_of_a_message(codec: Codec) -> None:
    """A message with each of its fields set, cut off at every place."""
    data = codec.google()
    for field in codec.descriptor.fields:
        part = codec.google()
        _set_something(part, field)
        data.MergeFrom(part)
        encoded = part.SerializeToString()
        for size in range(len(encoded) + 1):
            check(codec, encoded[:size])
        check(codec, _tag(field.number << 3 | 2) + b"\xff" * 8 + b"\x7f" + encoded)
    check(codec, data.SerializeToString())


def _set_something(message: Any, field: FieldDescriptor) -> None:
    target = getattr(message, field.name)
    if is_map(field):
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        if value.message_type:
            target[_something(key)].SetInParent()
        else:
            target[_something(key)] = _something(value)
    elif field.message_type and field.is_repeated:
        target.add()
    elif field.message_type:
        target.SetInParent()
    elif field.is_repeated:
        target.extend([_something(field)] * 2)
    else:
        setattr(message, field.name, _something(field))


def _something(field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return "text"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return bytes(200)
    return 1 if field.type == FieldDescriptor.TYPE_BOOL else 25


DIFFERENCES = {
    "wrong wire type": ("every_type.Every", "0d01000000"),
    "group": ("every_type.Every", "a306a406"),
    "wide varint": ("every_type.Every", "18ffffffffffffffffff7f"),
    "field number 0": ("every_type.Nothing", "0001"),
    "impossible time": ("protos.ChaincodeMessage", "12021001120610ffffffff07"),
    "long tag": ("every_type.Every", "88808080800001"),
    "unknown field in an entry": ("every_type.Maps", "0a06080112001801"),
}


@pytest.mark.parametrize("difference", [*STRICTER, *LAXER, *OTHERWISE])
def test_each_difference_is_real(difference: str) -> None:
    name, text = DIFFERENCES[difference]
    codec = find(name)
    data = bytes.fromhex(text)
    assert oddities(data, codec.descriptor) == {difference}
    check(codec, data)
    if difference in STRICTER:
        codec.google.FromString(data)
        with pytest.raises(DecodeError):
            codec.decode(data)
    elif difference in LAXER:
        codec.decode(data)
        with pytest.raises(GoogleError):
            codec.google.FromString(data)
    else:
        google = google_tree(codec.google.FromString(data), micros=True)
        assert our_tree(codec.decode(data), codec.descriptor) != google


def test_a_plain_message_has_no_oddities() -> None:
    codec = find("protos.ChaincodeMessage")
    data = codec.google(type="READY", txid="t", payload=b"p", timestamp={"seconds": 5})
    assert oddities(data.SerializeToString(), codec.descriptor) == set()
