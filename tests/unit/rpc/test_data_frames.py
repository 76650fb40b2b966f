"""DATA frames that go past h2, next to the same through h2."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric_protos.data_frames import WRITE_BYTES
from fabric_protos.grpc_messages import MessageRefused, grpc_frame

from .frames import (
    DATA,
    END_STREAM,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Client,
    Server,
    h2_frame,
)

ONE, TWO, IDLE = 1, 3, 5
GOAWAY = 7
ACK = 1


def credit(stream_id: int, size: int) -> bytes:
    return h2_frame(WINDOW_UPDATE, stream_id, size.to_bytes(4, "big"))


def data(stream_id: int, payload: bytes, padding: int | None = None, flags: int = 0) -> bytes:
    if padding is None:
        return h2_frame(DATA, stream_id, payload, flags)
    padded = bytes([padding]) + payload + bytes(padding)
    return h2_frame(DATA, stream_id, padded, flags | PADDED)


def begun(**window: int) -> tuple[Server, Client]:
    """Return a server with one open stream that h2 has let DATA through for."""
    server, client = Server(is_direct=True, **window), Client()
    server.read(client.begin(ONE))
    server.read(data(ONE, grpc_frame(b"first")))
    server.written()
    server.passed = 0
    return server, client


# Both ways, compared

Frames = list[bytes]
Reads = Sequence[tuple[int, bool]]
PIECES = st.lists(st.tuples(st.integers(0, 80), st.none() | st.integers(0, 9)), max_size=9)
EXTRAS = st.one_of(
    st.builds(credit, st.sampled_from([0, ONE, TWO]), st.integers(1, 500)),
    st.builds(h2_frame, st.just(PING), st.just(0), st.binary(min_size=8, max_size=8)),
    st.builds(h2_frame, st.just(0xFA), st.sampled_from([0, ONE]), st.binary(max_size=9)),
    st.just(h2_frame(PRIORITY, TWO, bytes(5))),
    st.just(h2_frame(SETTINGS, 0, b"\0\4\0\0\0\x50")),  # streams begin with 80 bytes
    st.just(data(ONE, b"")),
)
BAD = st.one_of(
    st.builds(h2_frame, st.just(RST_STREAM), st.sampled_from([ONE, TWO]), st.just(bytes(4))),
    st.builds(credit, st.sampled_from([0, ONE, IDLE]), st.sampled_from([0, 2**31 - 1])),
    st.builds(h2_frame, st.just(WINDOW_UPDATE), st.sampled_from([0, ONE]), st.binary(max_size=6)),
    st.builds(data, st.sampled_from([0, IDLE]), st.binary(max_size=9)),
    st.just(data(ONE, b"", flags=END_STREAM)),
    st.just(h2_frame(HEADERS, TWO, b"\x82", END_STREAM)),  # CONTINUATION ought to follow
    st.just(h2_frame(DATA, TWO, b"\x09abc", PADDED)),
    st.just(h2_frame(GOAWAY, 0, bytes(7) + b"\x0b")),
    st.just(data(TWO, grpc_frame(b"never")[:-1] + b"\1\0\0\0\0\0")),
)


@st.composite
def one_stream(draw: st.DrawFn, stream_id: int) -> Frames:
    """DATA frames of some messages, cut anywhere."""
    messages = draw(st.lists(st.binary(max_size=90), max_size=5))
    rest, found = b"".join(map(grpc_frame, messages)), []
    for size, padding in draw(PIECES):
        found.append(data(stream_id, rest[:size], padding))
        rest = rest[size:]
    return [*found, data(stream_id, rest)]


@st.composite
def interleaved(draw: st.DrawFn, extras: st.SearchStrategy[bytes]) -> Frames:
    """Frames of two streams, and others."""
    sources = [draw(one_stream(ONE)), draw(one_stream(TWO)), draw(st.lists(extras, max_size=8))]
    order = [number for number, source in enumerate(sources) for _ in source]
    left = [iter(source) for source in sources]
    return [next(left[number]) for number in draw(st.permutations(order))]


@st.composite
def ends(draw: st.DrawFn, client: Client) -> Frames:
    """How the streams end: not, with DATA, or with trailers in several frames."""
    found: Frames = []
    for stream_id in (ONE, TWO):
        match draw(st.sampled_from(["open", "data", "trailers"])):
            case "data":
                found.append(data(stream_id, b"", draw(st.none() | st.just(3)), END_STREAM))
            case "trailers":
                found += client.trailers(stream_id, draw(st.integers(1, 4)))
    return found


CUTS = st.lists(st.tuples(st.integers(0, 900), st.booleans()), max_size=12)
"""Where the input is cut, and whether the transport wants no more from there to the next cut."""


def run(*, is_direct: bool, first: bytes, frames: Frames, cuts: Reads | None) -> dict[str, Any]:
    """Return the outcome; without cuts, every frame is read by itself."""
    server = Server(is_direct=is_direct, stream_window=1000)
    server.read(first)
    server.read(data(ONE, b"") + data(TWO, b""))  # from now on they go past h2
    if cuts is None:
        for frame in frames:
            server.read(frame)
        return server.outcome()
    whole = b"".join(frames)
    ways = sorted((at, pauses) for at, pauses in cuts if at < len(whole))
    for (start, pauses), (stop, _) in itertools.pairwise([(0, False), *ways, (len(whole), False)]):
        if pauses:
            server.protocol.pause_writing()
        server.read(whole[start:stop])
        if pauses and not server.transport.closed:
            server.protocol.resume_writing()
    return server.outcome()


@settings(max_examples=150, deadline=None)
@given(st.data(), interleaved(EXTRAS), CUTS, st.sampled_from([0, 30, 65535]))
def test_both_ways_have_the_same_outcome(
    drawn: st.DataObject, frames: Frames, cuts: Reads, window: int
) -> None:
    client = Client(window=window)
    first = client.begin(ONE, TWO)
    frames = frames + drawn.draw(ends(client))
    direct = run(is_direct=True, first=first, frames=frames, cuts=cuts)
    assert direct == run(is_direct=False, first=first, frames=frames, cuts=cuts)
    assert not direct["closed"]


@settings(max_examples=150, deadline=None)
@given(interleaved(EXTRAS | BAD), CUTS)
def test_what_is_wrong_is_found_both_ways(frames: Frames, cuts: Reads) -> None:
    """h2 takes in nothing of what was read together with a frame that is wrong."""
    first = Client().begin(ONE, TWO)
    one_by_one = run(is_direct=True, first=first, frames=frames, cuts=None)
    assert one_by_one == run(is_direct=False, first=first, frames=frames, cuts=None)
    direct = run(is_direct=True, first=first, frames=frames, cuts=cuts)
    reference = run(is_direct=False, first=first, frames=frames, cuts=cuts)
    assert one_by_one["closed"] == direct["closed"] == reference["closed"]
    for stream_id in (ONE, TWO):
        all_messages = one_by_one["streams"][stream_id][0]
        for cut in (direct, reference):
            messages = cut["streams"][stream_id][0]
            assert messages == all_messages[: len(messages)]
        assert direct["streams"][stream_id][0] == all_messages


@pytest.mark.parametrize(
    "frame",
    [
        credit(0, 0),
        credit(ONE, 0),
        credit(0, 2**31 - 1),
        credit(ONE, 2**31 - 1),
        credit(0, 2**31 + 1),  # with the bit that means nothing
        h2_frame(WINDOW_UPDATE, ONE, b"\1\0\0"),
        h2_frame(WINDOW_UPDATE, ONE, b"\0\0\0\0\1"),
        data(IDLE, b""),
        h2_frame(PING, 0, b"short"),
        h2_frame(PING, ONE, bytes(8)),
    ],
)
def test_one_that_is_wrong_by_itself_is_found_both_ways(frame: bytes) -> None:
    first = Client().begin(ONE, TWO)
    direct = run(is_direct=True, first=first, frames=[frame], cuts=None)
    assert direct == run(is_direct=False, first=first, frames=[frame], cuts=None)


@pytest.mark.parametrize(
    "frame", [data(ONE, b""), credit(0, 1), credit(ONE, 1), h2_frame(PING, 0, bytes(8))]
)
def test_nothing_may_come_between_parts_of_headers(frame: bytes) -> None:
    server, _ = begun()
    server.read(h2_frame(HEADERS, ONE, b"\x82", END_STREAM) + frame)
    assert server.transport.closed


# What goes past h2, and what does not


def test_plain_frames_go_past_h2() -> None:
    server, _ = begun()
    server.read(data(ONE, grpc_frame(b"second")) + credit(ONE, 5) + credit(0, 5))
    assert server.passed == 0
    assert server.handler.streams[ONE].received == [b"first", b"second"]
    assert server.written() == [(DATA, 0, ONE, grpc_frame(b"second"))]


def test_pings_are_answered_at_once() -> None:
    server, _ = begun()
    server.read(h2_frame(PING, 0, b"01234567"))
    assert server.passed == 0
    assert server.written() == [(PING, ACK, 0, b"01234567")]


@pytest.mark.parametrize(
    "frame",
    [
        data(ONE, b"", 2),
        data(ONE, b"", flags=END_STREAM),
        h2_frame(PING, 0, bytes(8), ACK),
        h2_frame(PING, 0, bytes(7)),
        h2_frame(PING, ONE, bytes(8)),
        h2_frame(SETTINGS, 0),
        credit(IDLE, 1),
        credit(ONE, 2**31 - 1),
        h2_frame(DATA, 2**31 + ONE, b""),  # with the bit that means nothing
    ],
    ids=[
        "padded",
        "last",
        "pong",
        "short",
        "misplaced",
        "settings",
        "idle",
        "overflow",
        "reserved",
    ],
)
def test_other_frames_go_to_h2_alone(frame: bytes) -> None:
    server, _ = begun()
    plain = data(ONE, grpc_frame(b"second"))
    server.read(plain + frame + plain)
    assert server.passed in (len(frame), len(frame) + len(plain))  # if it ended the stream


def test_a_stream_by_h2_stays_there() -> None:
    server = Server(is_direct=False)
    server.read(Client().begin(ONE))
    for _ in range(3):
        server.passed = 0
        server.read(data(ONE, b""))
        assert server.passed


def test_a_length_that_was_announced_is_held() -> None:
    server = Server(is_direct=True)
    server.read(Client().begin(ONE, **{"content-length": "8"}))
    server.read(data(ONE, grpc_frame(b"abc")))
    assert not server.transport.closed
    server.read(data(ONE, b"x"))
    assert server.transport.closed


def test_a_stream_that_was_released_is_over() -> None:
    server, _ = begun()
    server.handler.releases[ONE]()
    server.read(data(ONE, grpc_frame(b"second")))
    assert server.passed
    assert server.handler.streams[ONE].received == [b"first"]


def test_a_stream_we_reset_is_over() -> None:
    server, _ = begun()
    stream = server.handler.streams[ONE]
    stream._stream.reset_nowait()
    server.read(data(ONE, grpc_frame(b"second")))
    assert (server.passed > 0, stream.received) == (True, [b"first"])


def test_nothing_is_read_behind_the_end_of_the_connection() -> None:
    server, _ = begun()
    end = h2_frame(GOAWAY, 0, bytes(7) + b"\x0b")
    server.read(end + data(ONE, grpc_frame(b"second")) + h2_frame(PING, 0, bytes(8)))
    assert server.transport.closed
    assert server.handler.streams[ONE].received == [b"first"]
    assert server.written() == []


def test_a_client_may_not_send_more_than_its_window() -> None:
    server, _ = begun(stream_window=64)
    server.read(data(ONE, bytes(65)))
    assert server.transport.closed
    assert [str(end) for end in server.handler.streams[ONE].ends] == ["Protocol error"]


def test_the_window_of_the_connection_is_held_too() -> None:
    server, _ = begun()
    stream = server.handler.streams[ONE]
    stream._shared_window.current_window_size = 64
    server.read(data(ONE, bytes(65)))
    assert [str(end) for end in stream.ends] == ["Protocol error"]


def test_a_client_may_send_all_of_its_window_again_and_again() -> None:
    server, _ = begun(stream_window=64)
    message = grpc_frame(bytes(27))
    for _ in range(50):
        server.read(data(ONE, message) + data(ONE, message[:10]))
        server.read(data(ONE, message[10:]))
    assert (server.passed, server.transport.closed) == (0, False)
    assert len(server.handler.streams[ONE].received) == 101


def test_credit_is_given_in_portions() -> None:
    server, _ = begun()
    message = data(ONE, grpc_frame(bytes(9000)))
    for _ in range(1000):
        server.read(message)
    updates = [frame for frame in server.written() if frame[0] == WINDOW_UPDATE]
    assert 0 < len(updates) <= 10


def test_a_frame_too_large_is_refused_as_by_h2() -> None:
    server, _ = begun()
    server.read(data(ONE, bytes(16_385)))
    assert server.transport.closed


def test_bytes_of_a_frame_that_come_one_by_one() -> None:
    server, _ = begun()
    whole = data(ONE, grpc_frame(b"second")) + data(ONE, grpc_frame(b"third"))
    for byte in whole:
        server.read(bytes([byte]))
    assert server.handler.streams[ONE].received == [b"first", b"second", b"third"]
    assert server.passed == 0


# What is written


def test_what_answers_one_read_is_one_frame_and_one_write() -> None:
    server, _ = begun()
    messages = [b"%d" % number for number in range(32)]
    server.read(b"".join(data(ONE, grpc_frame(each)) for each in messages))
    [write] = server.transport.writes
    assert write == data(ONE, b"".join(map(grpc_frame, messages)))


@pytest.mark.parametrize("is_direct", [True, False])
def test_a_message_over_the_largest_frame_is_several(is_direct: bool) -> None:
    server = Server(is_direct=is_direct)
    server.read(Client().begin(ONE))
    server.written()
    message = bytes(40_000)
    server.handler.streams[ONE].queue(message)
    server.handler.streams[ONE].flush()
    assert len(server.transport.writes) == 1
    payloads = [payload for *_, payload in server.written()]
    assert [len(each) for each in payloads] == [16_384, 16_384, 40_005 - 2 * 16_384]
    assert b"".join(payloads) == grpc_frame(message)


def test_credit_for_the_connection_wakes_streams_that_are_not_direct() -> None:
    server, client = begun()
    server.read(client.request(TWO))
    other = server.handler.streams[TWO]
    other._h2.outbound_flow_control_window = 0
    other.queue(b"waits")
    other.flush()
    server.written()
    server.read(credit(0, 100))
    assert server.written() == [(DATA, 0, TWO, grpc_frame(b"waits"))]


def test_answers_over_the_largest_frame_are_several_in_one_write() -> None:
    server, _ = begun()
    message = grpc_frame(bytes(9000))
    server.read(data(ONE, message) * 3)
    assert len(server.transport.writes) == 1
    sizes = [len(payload) for *_, payload in server.written()]
    assert sizes == [16_384, 3 * len(message) - 16_384]


def test_a_transport_is_not_handed_everything_at_once() -> None:
    server, _ = begun()
    for target in (0, ONE):
        server.read(credit(target, 1 << 24))
    stream = server.handler.streams[ONE]
    stream.queue(bytes(4 * WRITE_BYTES))
    pauses = server.protocol.pause_writing
    server.transport.write = lambda data: pauses()  # type: ignore[method-assign]
    stream.flush()
    assert stream.queued == 3 * WRITE_BYTES + 5
    server.protocol.resume_writing()
    assert stream.queued == 2 * WRITE_BYTES + 5


def test_answers_do_not_pile_up_within_one_read() -> None:
    server, _ = begun()
    for target in (0, ONE):
        server.read(credit(target, 1 << 24))
    most = 0
    stream = server.handler.streams[ONE]

    def answer(message: bytes) -> None:
        nonlocal most
        stream.post(bytes(WRITE_BYTES // 4))
        most = max(most, stream.queued)

    stream._deliver = answer
    server.read(data(ONE, grpc_frame(b"x") * 100))
    assert stream.queued == 0
    assert most < WRITE_BYTES


def test_who_ends_the_stream_gets_the_answers_before_that() -> None:
    server, _ = begun()
    server.read(data(ONE, grpc_frame(b"last")) + data(ONE, b"", flags=END_STREAM))
    assert server.written() == [(DATA, 0, ONE, grpc_frame(b"last"))]
    assert server.handler.streams[ONE].ends == [None]


def test_an_end_in_the_middle_of_a_message_is_told() -> None:
    server, _ = begun()
    server.read(data(ONE, b"\0\0\0", flags=END_STREAM))
    [end] = server.handler.streams[ONE].ends
    assert isinstance(end, EOFError)


def test_what_delivering_raises_is_told_and_the_rest_is_thrown_away() -> None:
    server, _ = begun()
    stream = server.handler.streams[ONE]
    server.read(data(ONE, b"\1\0\0\0\0") + data(ONE, grpc_frame(b"more")))
    [end] = stream.ends
    assert isinstance(end, MessageRefused)
    assert stream.received == [b"first"]
    assert not server.transport.closed


def test_messages_do_not_need_grpclib() -> None:
    """A chaincode must not load what only streams of gRPC need before it says that it has one."""
    code = "import sys, fabric_protos.stream; print({'grpclib', 'h2', 'asyncio'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
