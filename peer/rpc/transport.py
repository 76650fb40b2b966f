"""A socket that a Trio task reads for a protocol of asyncio.

Room:      peer.rpc   (used by accepted)
Loop:      Trio; the protocol runs in its tasks, and finds the asyncio loop all the same
Lifetime:  connection
Fabric:    none

A transport of asyncio costs four passes of Trio's scheduler for each piece of input, this one
costs one. What a protocol writes while it takes a piece leaves in one system call afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress

import trio

log = logging.getLogger("peer.rpc")

READ_BYTES = 1 << 16
PAUSE_BYTES = 1 << 16
"""Protocols are told to stop writing when more than that waits for the far end to read."""
RESUME_BYTES = PAUSE_BYTES // 4


class SocketTransport(asyncio.Transport):
    """Carries what a protocol reads and writes over a connected socket.

    Args:
        sock: non-blocking; to be closed by its owner, after `run`.
        tasks: where a task runs as long as the far end does not read.
    """

    def __init__(self, sock: socket.socket, tasks: trio.Nursery) -> None:
        extra: dict[str, object] = {"socket": sock}
        with suppress(OSError):  # the far end may be gone already
            extra["peername"] = sock.getpeername()
        super().__init__(extra)
        self._sock = sock
        self._tasks = tasks
        self._protocol: asyncio.BaseProtocol = asyncio.Protocol()
        self._reading = trio.CancelScope(shield=True)
        self._writing = trio.CancelScope()
        self._may_read: trio.Event | None = None  # while the protocol wants nothing
        self._waiting = bytearray()
        self._is_closing = False
        self._is_corked = False
        self._is_writing = False
        self._is_paused = False
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Hand what arrives to the protocol until the connection is over, and tell it so.

        Cancellation: none, the protocol may still have a goodbye to say; `abort` ends it.
        """
        try:
            with self._reading:
                await self._read()
        except OSError as exc:
            self._failure = exc
        except Exception as exc:
            log.exception("a connection failed")
            self._failure = exc
        self._force_close(self._failure)
        self._protocol.connection_lost(self._failure)

    async def _read(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            if self._may_read is not None:
                await self._may_read.wait()
                continue
            self._is_corked = True
            try:
                is_over = self._deliver()
            except BlockingIOError:
                continue
            finally:
                self._is_corked = False
                self._flush()
            if is_over:
                await trio.sleep_forever()  # until what waits is written

    def _deliver(self) -> bool:
        """Hand one piece to the protocol; return whether it was the end."""
        protocol = self._protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            if size := self._sock.recv_into(protocol.get_buffer(READ_BYTES)):
                protocol.buffer_updated(size)
                return False
        else:
            assert isinstance(protocol, asyncio.Protocol)
            if data := self._sock.recv(READ_BYTES):
                protocol.data_received(data)
                return False
        if not protocol.eof_received():
            self.close()
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send data, as soon as possible and without waiting."""
        if self._is_closing:
            return
        self._waiting += data
        if not self._is_corked or len(self._waiting) > PAUSE_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Send what waits, as far as the far end takes it; a task sends the rest."""
        if self._waiting and not self._is_writing and self._send() and self._waiting:
            self._is_writing = True
            self._writing = trio.CancelScope(shield=True)
            self._tasks.start_soon(self._write)
        if self._waiting or self._is_paused or self._is_closing:
            self._tell()

    def _tell(self) -> None:
        """Have the protocol wait, or go on; end the reading once the last is written."""
        if len(self._waiting) > PAUSE_BYTES and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()
        elif len(self._waiting) <= RESUME_BYTES and self._is_paused and not self._is_closing:
            self._is_paused = False
            self._protocol.resume_writing()
        if self._is_closing and not self._waiting:
            self._reading.cancel()

    def _send(self) -> bool:
        """Send once; return whether the connection lives."""
        try:
            del self._waiting[: self._sock.send(self._waiting)]
        except BlockingIOError:
            pass
        except OSError as exc:
            self._force_close(exc)
            return False
        return True

    async def _write(self) -> None:
        with self._writing:
            while self._waiting:
                await trio.lowlevel.wait_writable(self._sock)
                self._send()
        self._is_writing = False
        self._flush()

    def close(self) -> None:
        """Write what waits, then end the connection; nothing is read any more."""
        if not self._is_closing:
            self._is_closing = True
            self.pause_reading()
            if not self._waiting:
                self._reading.cancel()

    def abort(self) -> None:
        """End the connection at once."""
        self._force_close(None)

    def _force_close(self, exc: BaseException | None) -> None:  # the name that TLS calls
        self._is_closing = True
        if isinstance(exc, Exception):
            self._failure = self._failure or exc
        self._waiting.clear()
        self._reading.cancel()
        self._writing.cancel()

    def is_closing(self) -> bool:
        return self._is_closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def pause_reading(self) -> None:
        if self._may_read is None:
            self._may_read = trio.Event()

    def resume_reading(self) -> None:
        if self._may_read is not None and not self._is_closing:
            self._may_read.set()
            self._may_read = None

    def get_write_buffer_size(self) -> int:
        return len(self._waiting)
