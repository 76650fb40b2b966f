"""A gRPC server by Google's library, for `test_client`; a program of its own.

Prints its port once it listens, and ends with its standard input. With arguments (certificate, key
and, for mutual TLS, the clients' authority: file names) it speaks TLS.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

# by what was sent: calls whose beginning or end nobody asks about send nothing
begun = {sent: threading.Semaphore(0) for sent in (b"", b"told")}
cancelled = {sent: threading.Semaphore(0) for sent in (b"", b"told")}


def echo(request: bytes, _: Any) -> bytes:
    """Answer with the request."""
    return request


def refuse(request: bytes, context: Any) -> bytes:
    """Refuse with a message that does not fit into ASCII and details as they were sent."""
    context.set_trailing_metadata((("grpc-status-details-bin", request),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the grün door\nis shut")
    raise AssertionError


def wait(request: bytes, context: Any) -> bytes:
    """Wait for the caller to give up."""
    gone = threading.Event()
    context.add_callback(gone.set)
    begun[request].release()
    gone.wait()
    cancelled[request].release()
    return b""


def has_begun(request: bytes, _: Any) -> bytes:
    """Return once a call of `wait` has arrived."""
    return b"yes" if begun[request].acquire(timeout=30) else b"no"


def was_cancelled(request: bytes, _: Any) -> bytes:
    """Return once a call of `wait` or `chat` was given up."""
    return b"yes" if cancelled[request].acquire(timeout=30) else b"no"


def deadline(_: bytes, context: Any) -> bytes:
    """Return the seconds that are left."""
    return str(context.time_remaining()).encode()


def fill(request: bytes, _: Any) -> bytes:
    """Return as many bytes as asked for."""
    return bytes(int(request))


def chat(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    """Echo; ``stop`` ends the call after an answer, ``refuse`` with an error."""
    context.add_callback(lambda: context.is_active() or cancelled[b""].release())
    for request in requests:
        yield request
        if request == b"stop":
            return
        if request == b"refuse":
            context.abort(grpc.StatusCode.ABORTED, "no more")


def flood(requests: Iterator[bytes], _: Any) -> Iterator[bytes]:
    """Send a thousand messages of the size asked for."""
    size = int(next(requests))
    for number in range(1000):
        yield number.to_bytes(4, "big") + bytes(size)


def main(files: list[str]) -> None:
    """Serve until standard input ends."""
    server = grpc.server(
        futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 2**26)]
    )
    unary: Callable[..., Any] = grpc.unary_unary_rpc_method_handler
    methods = {
        function.__name__: unary(function)
        for function in (echo, refuse, wait, has_begun, was_cancelled, deadline, fill)
    }
    methods |= {
        each.__name__: grpc.stream_stream_rpc_method_handler(each) for each in (chat, flood)
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Test", methods)])
    if files:
        certificate, key, *client_root = [Path(name).read_bytes() for name in files]
        credentials = grpc.ssl_server_credentials(
            [(key, certificate)],
            root_certificates=client_root[0] if client_root else None,
            require_client_auth=bool(client_root),
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0).wait()


if __name__ == "__main__":
    main(sys.argv[1:])
