"""The contract between what is served and who serves it.

Room:      peer.services   (used by gateway, discovery, rpc, serving and tracing)
Loop:      Trio
Lifetime:  peer; a call is a task of the server
Fabric:    internal/pkg/comm/server.go (release-2.5)

A service is a class that knows nothing of gRPC, with one function that returns its methods. The
server has read the message, bounded its size and the number of calls, and put the call under a
scope that ends with the caller: gone, or past its deadline. So a method only awaits, and to refuse
it raises `CallRefused`.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import betterproto2

from fabric_protos import codec
from peer.errors import CallRefused as CallRefused
from peer.errors import Code as Code
from peer.errors import ErrorDetail as ErrorDetail

Decode = Callable[[bytes], Any]
Encode = Callable[[Any], bytes]
Requests = AsyncIterator[Any]
Send = Callable[[Any], Awaitable[None]]

SMALL = 1 << 16
"""Bytes that are enough for any request that carries nobody's data; to read one takes no time."""


class Caller(NamedTuple):
    """Who calls, as far as the connection tells.

    Attributes:
        address: ``host:port`` of the far end.
        certificate: the client's TLS certificate as DER, empty without one.
        traceparent: which span the call belongs to, as the client has it (W3C Trace Context).
    """

    address: str
    certificate: bytes = b""
    traceparent: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary:
    """One request, one response.

    Attributes:
        path: ``/package.Service/Method``.
        decode: reads the request; a `DecodeError` is answered with INVALID_ARGUMENT.
        call: answers one request.
        encode: writes the response.
        max_request: bytes of a request, where that is less than the server takes.
    """

    path: str
    decode: Decode
    call: Callable[[Any, Caller], Awaitable[Any]]
    encode: Encode
    max_request: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """Any number of requests, any number of responses.

    Attributes:
        path: ``/package.Service/Method``.
        decode: reads one request; a `DecodeError` ends the call with INVALID_ARGUMENT.
        call: takes requests until they end, the `send` of responses, and the caller; its return
            ends the call. `send` waits until the caller reads: that is the back-pressure. One task
            may send at a time.
        encode: writes one response.
        max_request: bytes of one request, where that is less than the server takes.
        is_endless: its responses go on until the caller leaves, so a server that stops does not
            wait for them.
    """

    path: str
    decode: Decode
    call: Callable[[Requests, Send, Caller], Awaitable[None]]
    encode: Encode
    max_request: float = math.inf
    is_endless: bool = False


Method = Unary | Streaming


def decoder(cls: type[betterproto2.Message]) -> Decode:
    """Return the strict decoder of a message class, for `Unary.decode` and `Streaming.decode`."""
    return lambda data: codec.decode(cls, data)
