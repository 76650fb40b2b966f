"""Large messages are read in a thread of few, small ones at once."""

from __future__ import annotations

import threading

import trio
import trio.testing

from peer.reading import AT_ONCE_BYTES, THREADS, read_apart


def where(_: bytes) -> threading.Thread:
    return threading.current_thread()


async def test_only_what_is_large_is_read_in_a_thread() -> None:
    here = threading.current_thread()
    assert await read_apart(where, b"", AT_ONCE_BYTES) is here
    assert await read_apart(where, b"", AT_ONCE_BYTES + 1) is not here


async def test_large_messages_take_few_threads() -> None:
    go, reading = threading.Event(), threading.Semaphore(0)

    def read(_: bytes) -> None:
        reading.release()
        assert go.wait(30)

    async with trio.open_nursery() as nursery:
        for _ in range(THREADS + 1):
            nursery.start_soon(read_apart, read, b"", AT_ONCE_BYTES + 1)
        for _ in range(THREADS):
            assert await trio.to_thread.run_sync(lambda: reading.acquire(timeout=30))
        await trio.testing.wait_all_tasks_blocked()
        assert not reading.acquire(blocking=False)
        go.set()


def test_a_reader_that_outlives_its_run_takes_no_thread_of_the_next() -> None:
    go = threading.Event()

    async def leave() -> None:
        for _ in range(THREADS):
            with trio.move_on_after(0.01):
                await read_apart(lambda _: go.wait(30), b"", AT_ONCE_BYTES + 1)

    async def read() -> None:
        with trio.fail_after(30):
            await read_apart(where, b"", AT_ONCE_BYTES + 1)

    trio.run(leave)
    go.set()
    trio.run(read)
