"""Calls that go past h2, next to the same through h2."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from peer.rpc.http2 import grpc_frame

from .frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    frames_of,
    h2_frame,
)
from .served import (
    HAS_PRIORITY,
    MAX_FRAME,
    STREAMS,
    TABLE,
    WINDOW,
    Client,
    Served,
    answer_of,
    credit,
    data,
    seen,
)

GOAWAY = 7
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, ENHANCE_YOUR_CALM = 1, 3, 6, 11
RESERVED = 1 << 31  # a bit of stream numbers that means nothing


MORE = st.sampled_from(
    [
        (),
        (("grpc-timeout", "5S"), ("x-metadata-bin", "AAECAw")),
        (("user-agent", "x" * 200),),
        (("content-length", "7"),),
        (("content-length", "20"),),
        ((":path", "/again"), ("x\0y", "a\r\nb"), ("", "")),
    ]
)
OPEN = st.sampled_from([1, 3, 5, 7, 9, 11])
SIZES = st.sampled_from([0, 1, 7, 13, 20])
Step = Callable[[Client], None]


def frame(strategy: st.SearchStrategy[bytes]) -> st.SearchStrategy[Step]:
    return strategy.map(lambda made: lambda client: client.frames.append(made))


def step(function: Callable[..., None], *arguments: st.SearchStrategy[Any]) -> Any:
    return st.tuples(*arguments).map(lambda drawn: lambda client: function(client, *drawn))


def _call(client: Client, more: Any, flags: int, parts: int) -> None:
    client.call(client.block(more), flags, parts)


def _whole(client: Client, more: Any, size: int, flags: int) -> None:
    client.call(client.block(more), 0, 0)
    client.frames.append(data(client.next_id - 2, bytes(size), flags | END_STREAM))


def _trailers(client: Client, stream_id: int, flags: int, parts: int) -> None:
    client.headers(stream_id, client.encoder.encode([("end", "here" * 9)]), flags, parts)


def _elsewhere(client: Client, stream_id: int) -> None:
    client.headers(stream_id, client.block(()), 0, 0)


def _bad_block(client: Client, block: bytes) -> None:
    client.call(block, 0, 0)


GOOD: list[st.SearchStrategy[Step]] = [
    step(_whole, MORE, SIZES, st.sampled_from([0, 0, PADDED])),
    step(_whole, st.just(()), SIZES, st.just(0)),
    step(_call, MORE, st.sampled_from([0, END_STREAM, HAS_PRIORITY, PADDED]), st.integers(0, 2)),
    frame(st.builds(data, OPEN, SIZES.map(bytes), st.sampled_from([0, END_STREAM, PADDED]))),
    step(Client.resize, st.sampled_from([0, 100, 4096])),
    step(Client.settings, st.just(TABLE), st.sampled_from([0, 100, 4096])),
    step(Client.settings, st.just(WINDOW), st.sampled_from([0, 100, 70_000])),
    step(Client.settings, st.just(MAX_FRAME), st.sampled_from([16_384, 30_000])),
    frame(st.builds(credit, st.just(0) | OPEN, st.integers(1, 30_000))),
    frame(st.builds(h2_frame, st.just(PING), st.just(0), st.binary(min_size=8, max_size=8))),
    frame(st.builds(h2_frame, st.just(PRIORITY), OPEN, st.just(b"\0\0\0\x0f\1"))),
    frame(st.builds(h2_frame, st.just(0xFA), st.just(0) | OPEN, st.binary(max_size=9))),
    frame(st.builds(h2_frame, st.just(RST_STREAM), OPEN, st.just(b"\0\0\0\x08"))),
    frame(st.just(h2_frame(GOAWAY, 0, bytes(8)))),
]
BAD: list[st.SearchStrategy[Step]] = [
    step(_elsewhere, st.sampled_from([0, 1, 2, 4, 3, RESERVED + 13, 101])),
    step(_trailers, OPEN, st.sampled_from([0, END_STREAM]), st.integers(0, 2)),
    step(_call, st.just((("content-length", "many"),)), st.just(0), st.just(0)),
    step(
        _bad_block,
        st.sampled_from(
            [
                b"",
                b"\xff",
                b"\xfe",
                b"\x3f\xe2\x1f",  # a table of 4097 bytes
                b"\x48\x03200\x83",
                b"\x82" * 1700,  # a list of more than 64 KiB
                b"\x0f\x01\x7f\x81\x7f" + bytes(16_400),  # a frame that is too large
                b"\x83\x20\x83",  # a change of the table behind a field
            ]
        ),
    ),
    frame(
        st.builds(data, st.sampled_from([0, 1, 2, 101]), st.sampled_from([101, 16_385]).map(bytes))
    ),
    frame(st.builds(data, OPEN, st.just(bytes(16_384)))),
    frame(st.builds(credit, st.sampled_from([0, 1, 3, 101]), st.sampled_from([0, 2**31 - 1]))),
    frame(st.just(h2_frame(GOAWAY, 0, bytes(7) + b"\x0b"))),
    frame(st.just(h2_frame(CONTINUATION, 1, b"\x83", END_HEADERS))),
    frame(st.just(h2_frame(HEADERS, 99, b"\x83"))),  # CONTINUATION ought to follow
    frame(st.just(data(RESERVED + 1, b"x"))),
    frame(st.just(h2_frame(DATA, 1, b"\x09abc", PADDED))),
    step(Client.settings, st.just(WINDOW), st.just(1 << 31)),
]
CUTS = st.lists(st.integers(0, 400), max_size=12)
FAST = settings(
    max_examples=250, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate)
)  # shrinking takes minutes, and what fails is small


def compare(steps: list[Step], cuts: list[int], windows: tuple[int, int]) -> None:
    """Let a client do so, its frames cut after so many bytes each, with both ways."""
    client = Client()
    first = client.hello(window=windows[0])
    for each in steps:
        each(client)
    pieces, rest = [first], b"".join(client.frames)
    for size in cuts:
        pieces.append(rest[:size])
        rest = rest[size:]
    past, through = (
        asyncio.run(Served(past_h2=past_h2, stream_window=windows[1]).run(*pieces, rest))
        for past_h2 in (True, False)
    )
    assert past.outcome(client.tables) == through.outcome(client.tables)


WINDOWS = st.tuples(st.sampled_from([0, 310, 65535]), st.sampled_from([100, 1 << 16]))


@FAST
@given(st.lists(st.one_of(GOOD), max_size=25), CUTS, WINDOWS)
def test_both_ways_have_the_same_outcome(
    steps: list[Step], cuts: list[int], windows: tuple[int, int]
) -> None:
    compare(steps, cuts, windows)


@FAST
@given(st.lists(st.one_of(GOOD + BAD), max_size=25), CUTS, WINDOWS)
def test_what_is_wrong_is_found_both_ways(
    steps: list[Step], cuts: list[int], windows: tuple[int, int]
) -> None:
    compare(steps, cuts, windows)


# What goes past h2, and what does not


def served(*frames: bytes) -> Served:
    """Return a connection that has read its first call, and then these frames at once."""
    connection = Served(past_h2=True)

    async def read() -> None:
        await connection.run(Client().hello())
        connection.passed = 0
        connection.transport.writes.clear()
        await connection.run(b"".join(frames))

    asyncio.run(read())
    return connection


def ask(stream_id: int) -> bytes:
    return call(stream_id) + data(stream_id, b"", END_STREAM)


def call(stream_id: int, more: Any = (), flags: int = 0) -> bytes:
    client = Client()
    client.headers(stream_id, client.block(more), flags, 0)
    return client.frames[0]


def goaway(connection: Served) -> int | None:
    """Return the code with which a connection ended, None if it goes on."""
    frames = frames_of(b"".join(connection.transport.writes))
    codes = [
        int.from_bytes(content[4:8], "big") for kind, _, _, content in frames if kind == GOAWAY
    ]
    assert connection.transport.closed == bool(codes)
    return codes[0] if codes else None


def test_calls_go_past_h2_and_are_answered_in_one_piece() -> None:
    whole = data(3, b"request", END_STREAM)
    connection = served(call(3), whole, call(5), data(5, b"half of"))
    assert connection.passed == 0
    assert [each.told for each in connection.handler.receivers[1:]] == [
        [(b"request", 7), "the end"],
        [(b"half of", 7)],
    ]
    [answer] = connection.transport.writes
    assert [frame[:3] for frame in seen(answer, [])] == [
        (HEADERS, END_HEADERS, 3),
        (DATA, 0, 3),
        (HEADERS, END_HEADERS | END_STREAM, 3),
    ]
    assert grpc_frame(bytes(300)) in answer


@pytest.mark.parametrize(
    "frame",
    [
        call(3, flags=END_STREAM),
        call(3, flags=PADDED),
        call(3, flags=HAS_PRIORITY),
        call(RESERVED + 3),
        data(1, b"x", PADDED),
    ],
    ids=["no request", "padded", "priority", "reserved", "padded data"],
)
def test_unusual_frames_go_to_h2(frame: bytes) -> None:
    connection = served(frame)
    assert connection.passed == len(frame)
    assert connection.h2.highest_inbound_stream_id in (1, 3)


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (b"\xff", PROTOCOL_ERROR),
        (b"\x82" * 1700, ENHANCE_YOUR_CALM),  # a list of more than 64 KiB
    ],
)
def test_headers_that_cannot_be_read_end_the_connection(block: bytes, code: int) -> None:
    """And what was sent behind them is not looked at."""
    bad = h2_frame(HEADERS, 3, block, END_HEADERS)
    connection = served(bad, call(5), data(1, b"more"), h2_frame(PING, 0, bytes(8)))
    assert goaway(connection) == code
    assert connection.passed == 0
    assert [stream_id for stream_id, _ in connection.handler.accepted] == [1]


def test_nothing_is_taken_behind_an_error_that_h2_finds() -> None:
    connection = served(data(99, b"x"), call(3))
    assert goaway(connection) == PROTOCOL_ERROR
    assert [stream_id for stream_id, _ in connection.handler.accepted] == [1]


@pytest.mark.parametrize("kind", [DATA, HEADERS, SETTINGS, 0xFA])
def test_a_frame_that_is_too_large_is_refused_at_its_head(kind: int) -> None:
    head = h2_frame(kind, 1, bytes(16_385), END_HEADERS)[:9]
    connection = served(call(3), data(3, b"x"), head[:4], head[4:])
    assert [each.told for each in connection.handler.receivers[1:]] == [
        [(b"x", 1), "Protocol error"]
    ]
    assert goaway(connection) == FRAME_SIZE_ERROR


def test_headers_in_many_frames_are_not_collected_for_ever() -> None:
    part = bytes(16_384)
    frames = [h2_frame(HEADERS, 3, part), *[h2_frame(CONTINUATION, 3, part)] * 3]
    assert goaway(served(*frames)) is None
    assert goaway(served(*frames, h2_frame(CONTINUATION, 3, b"\0"))) == ENHANCE_YOUR_CALM


def test_trailers_end_a_request() -> None:
    client = Client()
    client.headers(1, client.encoder.encode([("end", "here")]), END_STREAM, 0)
    connection = served(*client.frames)
    assert connection.handler.receivers[0].told == ["the end"]
    assert goaway(connection) is None


def test_calls_that_are_over_leave_nothing_behind() -> None:
    """However they ended: past h2, through it, refused at once, or reset."""
    frames = [credit(0, 1 << 30)]
    for stream_id in range(3, 603, 2):
        reset = h2_frame(RST_STREAM, stream_id, bytes(4))
        frames += [
            call(stream_id),
            reset if stream_id % 5 == 0 else data(stream_id, b"", END_STREAM),
        ]
    connection = Served(past_h2=True)

    async def read() -> None:
        await connection.run(Client().hello())
        for frame in frames:
            await connection.run(frame)
            assert len(connection.h2.streams) <= 2

    asyncio.run(read())
    assert len(connection.handler.accepted) == 301
    assert [*connection.h2.streams] == [*connection.protocol.processor.streams] == [1]
    assert len(connection.h2._closed_streams) <= STREAMS


def test_a_client_may_not_send_more_than_the_window_of_the_connection() -> None:
    connection = Served(past_h2=True, stream_window=1 << 20)
    full = [data(1, bytes(16_384))] * 4
    asyncio.run(connection.run(Client().hello(), *full))
    assert goaway(connection) is None
    asyncio.run(connection.run(data(1, b"x")))
    assert goaway(connection) == FLOW_CONTROL_ERROR


def test_answers_wait_for_the_window_of_the_connection() -> None:
    connection = Served(past_h2=True)
    large = [number for number in range(3, 70, 2) if len(answer_of(number)) == 16_000]
    asyncio.run(connection.run(Client().hello(), *map(ask, large[:5])))
    assert connection.h2.outbound_flow_control_window == 0
    assert [each.state for each in connection.handler.receivers[-2:]] == ["over", "answering"]
    asyncio.run(connection.run(credit(0, 1 << 20)))
    assert connection.handler.receivers[-1].state == "over"


def test_credit_is_given_for_requests_that_were_answered_before_they_were_taken() -> None:
    connection = served(call(13), data(13, bytes(100), END_STREAM))
    assert [*connection.h2.streams] == [1]
    assert connection.h2._inbound_flow_control_window_manager._bytes_processed == 100


def test_a_client_that_makes_its_table_smaller_is_told_before_any_answer() -> None:
    client = Client()
    client.settings(TABLE, 0)
    connection = served(*client.frames, ask(3), ask(13))
    assert goaway(connection) is None
    answers = seen(b"".join(connection.transport.writes), [0])
    assert [frame[2] for frame in answers if frame[0] == DATA] == [3, 13]


def test_sizes_of_the_table_do_not_pile_up() -> None:
    """Only the smallest and the last are told, and these in any case (RFC 7541, 4.2)."""
    for sizes in ([0], [0, 0], [4096, 0, 100, 4096, 100]):
        client = Client()
        for size in sizes:
            client.settings(TABLE, size)
        connection = served(*client.frames * 9)
        assert connection.h2.encoder.table_size_changes == sorted({0, sizes[-1]})
        connection.h2.send_headers(1, [("a", "b")])
        assert connection.h2.data_to_send()[9] == 0x20
