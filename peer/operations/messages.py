"""What is asked and answered over HTTP.

Room:      peer.operations   (used by http and endpoint, so that neither needs the other)
Loop:      none
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple


class Request(NamedTuple):
    """What a client asks.

    Attributes:
        path: without the query.
        is_authenticated: the client has shown a certificate, and it is good.
    """

    method: str
    path: str
    body: bytes
    is_authenticated: bool


class Answer(NamedTuple):
    """What it gets."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


Respond = Callable[[Request], Awaitable[Answer]]
