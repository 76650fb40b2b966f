"""Tell from inside a program which code its CPU time goes to.

Room:      benchmarks   (used by served; read by profiled)
Loop:      none; the main thread
Lifetime:  from `start` to `stop`
Fabric:    none

A timer of CPU time interrupts the main thread, and the time since the last interruption counts for
the stack that is found. The clock is the thread's own, so waiting counts for nothing, and what
other threads take is known as a sum. Nothing is stopped from outside, which on a busy machine makes
threads that wait look as if they worked.
"""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from types import CodeType, FrameType

INTERVAL_S = 0.002


class Sampler:
    """Samples the main thread of this process."""

    def __init__(self) -> None:
        self._seconds: defaultdict[tuple[CodeType, ...], float] = defaultdict(float)
        self._thread = self._process = 0.0

    def start(self) -> None:
        """Begin, in the main thread."""
        self._seconds.clear()
        self._thread, self._process = time.thread_time(), time.process_time()
        signal.signal(signal.SIGPROF, self._take)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def stop(self) -> dict[str, float]:
        """Return stacks, as flame graphs want them, with the seconds of each, and end.

        Frames are ``function (file)`` from the outermost to the innermost. What other threads took
        is the stack without frames.
        """
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        found: defaultdict[str, float] = defaultdict(float)
        for codes, seconds in self._seconds.items():
            frames = [f"{code.co_qualname} ({code.co_filename})" for code in reversed(codes)]
            found[";".join(frames)] += seconds
        found[""] = time.process_time() - self._process - sum(found.values())
        return found

    def _take(self, _: int, frame: FrameType | None) -> None:
        codes = []
        while frame is not None:
            codes.append(frame.f_code)
            frame = frame.f_back
        before, self._thread = self._thread, time.thread_time()
        self._seconds[tuple(codes)] += self._thread - before
