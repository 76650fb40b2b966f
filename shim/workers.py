"""Threads for chaincode written as plain functions.

Room:      shim   (imports nothing of ours; loaded with the first synchronous chaincode)
Loop:      `submit` and `close` are called in one thread, usually the event loop's
Lifetime:  the process, or one server; the threads are daemons, so that a function that never
           returns cannot keep a chaincode from exiting

A chaincode that calls itself on another channel needs one thread for each call in the chain.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread

THREADS = 32
MAX_WAITING = 5000


class Overloaded(Exception):
    """Every thread is busy and the queue is full."""


class Workers:
    """A bounded pool that starts its threads as they are needed.

    Args:
        threads: most functions that run at a time.
        max_waiting: most functions that wait for a thread.
    """

    def __init__(self, threads: int = THREADS, max_waiting: int = MAX_WAITING) -> None:
        self._threads = threads
        self._limit = threads + max_waiting
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = Lock()
        self._unfinished = 0
        self._started = 0

    def submit(self, job: Callable[[], None]) -> None:
        """Run *job*, which must not raise, in a thread.

        Raises:
            Overloaded: there is no room for it.
        """
        with self._lock:
            if self._unfinished == self._limit:
                raise Overloaded
            self._unfinished += 1
            busy = self._unfinished > self._started
        self._jobs.put(job)
        if busy and self._started < self._threads:
            self._started += 1
            Thread(target=self._work, name=f"chaincode-{self._started}", daemon=True).start()

    def close(self) -> None:
        """Let every thread end with the job it has, or the jobs that wait."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            finally:
                with self._lock:
                    self._unfinished -= 1
