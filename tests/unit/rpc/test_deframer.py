"""Cutting bytes into gRPC messages, wherever they are cut on the way."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric_protos.grpc_messages import Deframer, MessageRefused, grpc_frame

MESSAGES = st.lists(st.binary(max_size=40), max_size=8)


def feed(deframer: Deframer, *chunks: bytes) -> list[bytes]:
    found: list[bytes] = []
    for chunk in chunks:
        deframer.feed(chunk, found.append)
    return found


@given(MESSAGES, st.lists(st.integers(0, 400), max_size=12))
def test_any_cut_gives_the_same_messages(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(map(grpc_frame, messages))
    at = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    deframer = Deframer(100)
    chunks = [data[start:stop] for start, stop in itertools.pairwise(at)]
    assert feed(deframer, *chunks) == messages
    assert deframer.is_between_messages


@given(MESSAGES, st.binary(min_size=1, max_size=40), st.integers(1, 44))
def test_a_rest_is_noticed(messages: list[bytes], last: bytes, length: int) -> None:
    whole = grpc_frame(last)
    deframer = Deframer(100)
    rest = whole[: min(length, len(whole) - 1)]
    assert feed(deframer, b"".join(map(grpc_frame, messages)) + rest) == messages
    assert not deframer.is_between_messages


def test_a_frame_has_its_length_in_front() -> None:
    assert grpc_frame(b"abc") == b"\0\0\0\0\3abc"


@pytest.mark.parametrize("chunked", [False, True])
def test_the_limit_is_inclusive_and_needs_five_bytes(chunked: bool) -> None:
    deframer = Deframer(3)
    assert feed(deframer, grpc_frame(b"abc")) == [b"abc"]
    head = b"\0\0\0\0\4"
    with pytest.raises(MessageRefused, match=r"larger than max \(4 vs. 3\)") as refused:
        feed(deframer, *([bytes([byte]) for byte in head] if chunked else [head]))
    assert refused.value.code == "RESOURCE_EXHAUSTED"


def test_compression_is_refused() -> None:
    with pytest.raises(MessageRefused) as refused:
        feed(Deframer(100), b"\1\0\0\0\1x")
    assert refused.value.code == "UNIMPLEMENTED"


def test_messages_before_a_bad_one_are_delivered() -> None:
    found: list[bytes] = []
    with pytest.raises(MessageRefused):
        Deframer(3).feed(grpc_frame(b"ok") + grpc_frame(b"long"), found.append)
    assert found == [b"ok"]
