"""Lines out of a chaincode's output."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MemoryReceiveStream, MockClock

from runtimes import output as module
from runtimes.output import (
    BURST_S,
    BYTES_PER_S,
    LINES_PER_S,
    MAX_LINE_BYTES,
    TAIL_BYTES,
    TAIL_LINES,
    Output,
)


def pipe_with(*chunks: bytes) -> MemoryReceiveStream:
    """Return a pipe that gives these chunks, one by one, and ends."""
    waiting = list(chunks)
    pipe = MemoryReceiveStream()

    def feed() -> None:
        if waiting:
            pipe.put_data(waiting.pop(0))
        else:
            pipe.put_eof()

    async def hook() -> None:
        feed()

    pipe.receive_some_hook = hook
    return pipe


async def lines_of(*chunks: bytes) -> list[str]:
    lines: list[str] = []
    output = Output(lines.append)
    await output.pump(pipe_with(*chunks))
    assert output.ended.is_set()
    assert lines[len(lines) - len(output.tail()) :] == list(output.tail())
    return lines


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([], []),
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a", b"b\n", b"\nlast"], ["ab", "", "last"]),
        ([b"windows\r\n"], ["windows"]),
        ([b"\xc3", b"\xa4\n\xff\n"], ["ä", "\ufffd"]),
    ],
)
async def test_lines(chunks: list[bytes], lines: list[str], autojump_clock: MockClock) -> None:
    assert await lines_of(*chunks) == lines


@pytest.mark.parametrize("end", [b"", b"\n"])
async def test_long_lines_come_in_pieces(end: bytes, autojump_clock: MockClock) -> None:
    text = b"x" * (2 * MAX_LINE_BYTES + 7) + end
    chunks = [text[at : at + module.READ_BYTES] for at in range(0, len(text), module.READ_BYTES)]
    assert [len(line) for line in await lines_of(*chunks)] == [MAX_LINE_BYTES, MAX_LINE_BYTES, 7]


async def test_a_long_line_in_one_read_comes_in_pieces(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_BYTES", 1 << 20)
    lines = await lines_of(b"x" * (MAX_LINE_BYTES + 7) + b"\n")
    assert [len(line) for line in lines] == [MAX_LINE_BYTES, 7]


async def test_the_tail_is_bounded_in_lines(autojump_clock: MockClock) -> None:
    output = Output(lambda line: None)
    await output.pump(pipe_with(b"".join(b"%d\n" % n for n in range(250))))
    assert output.tail() == tuple(str(n) for n in range(250 - TAIL_LINES, 250))


async def test_the_tail_is_bounded_in_bytes(autojump_clock: MockClock) -> None:
    output = Output(lambda line: None)
    await output.pump(pipe_with(*[b"x" * 9_999 + b"\n"] * 50))
    assert TAIL_BYTES - 9_999 < sum(map(len, output.tail())) <= TAIL_BYTES


async def test_lines_and_bytes_are_paced(autojump_clock: MockClock) -> None:
    for chunk, count, cost in (
        (b"\n", 2 * LINES_PER_S, 1 / LINES_PER_S),
        (b"x" * 49_999 + b"\n", 400, 1 / LINES_PER_S + 49_999 / BYTES_PER_S),
    ):
        before = trio.current_time()
        await Output(lambda line: None).pump(pipe_with(*[chunk * 10] * (count // 10)))
        elapsed = trio.current_time() - before
        assert elapsed == pytest.approx(count * cost - BURST_S, rel=0.02)


async def test_a_hurried_output_takes_no_time_and_lets_others_run(
    autojump_clock: MockClock,
) -> None:
    output = Output(lambda line: None)
    output.hurry()
    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(output.pump, pipe_with(b"\n" * 16_000))
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert not output.ended.is_set()
    assert trio.current_time() == before
