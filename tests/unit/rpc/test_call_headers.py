"""Headers of calls, looked up where they are repeated: the same as hpack alone decodes."""

from __future__ import annotations

from h2.connection import _decode_headers
from h2.exceptions import DenialOfServiceError, ProtocolError
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from peer.rpc.http2_server import call_headers

Found = list[tuple[bytes, bytes]] | type[ProtocolError]

NAMES = st.sampled_from([b":method", b":path", b"te", b"user-agent", b"grpc-timeout", b"x-more"])
VALUES = st.sampled_from([b"POST", b"/service/call", b"trailers", b"1S", b"", b"long" * 40])
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=30)
ANY_BYTES = st.binary(max_size=12)
TABLE_SIZES = st.sampled_from([b"\x20", b"\x3f\x45", b"\x3f\xe1\x1f"])


def looked_up(decoder: Decoder, block: bytes) -> Found:
    try:
        return call_headers(decoder, block)
    except ProtocolError as exc:
        return type(exc)


def by_hpack(decoder: Decoder, block: bytes) -> Found:
    try:
        return [(name, value) for name, value in _decode_headers(decoder, block)]
    except ProtocolError as exc:
        return type(exc)


@given(lists=st.lists(HEADERS, min_size=1, max_size=6), huffman=st.booleans())
def test_calls_of_one_connection(lists: list[list[tuple[bytes, bytes]]], huffman: bool) -> None:
    encoder, one, other = Encoder(), Decoder(), Decoder()
    for headers in lists:
        block = encoder.encode(headers, huffman=huffman)
        assert looked_up(one, block) == by_hpack(other, block) == headers
        assert one.header_table.dynamic_entries == other.header_table.dynamic_entries


@given(
    before=HEADERS,
    blocks=st.lists(
        st.lists(ANY_BYTES | TABLE_SIZES | st.integers(0x80, 0xFF).map(lambda n: bytes([n]))).map(
            b"".join
        ),
        max_size=4,
    ),
)
def test_blocks_that_nobody_would_encode(
    before: list[tuple[bytes, bytes]], blocks: list[bytes]
) -> None:
    first, one, other = Encoder().encode(before), Decoder(), Decoder()
    for block in [first, *blocks]:
        found = looked_up(one, block)
        assert found == by_hpack(other, block)
        if isinstance(found, type):
            break  # the connection is over
        assert one.header_table.dynamic_entries == other.header_table.dynamic_entries


def test_a_header_that_is_not_in_the_table() -> None:
    assert looked_up(Decoder(), b"\x82\xfe") is ProtocolError


def test_a_table_size_behind_a_header() -> None:
    assert looked_up(Decoder(), b"\x82\x20") is ProtocolError


def test_a_large_header_repeated_without_end() -> None:
    decoder = Decoder()
    call_headers(decoder, Encoder().encode([(b"large", bytes(4000))]))
    assert looked_up(decoder, b"\xbe" * 31) is DenialOfServiceError
