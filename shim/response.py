"""What a transaction answers.

Room:      shim   (imports nothing of ours)
Loop:      none
Lifetime:  none
Fabric:    shim/response.go (fabric-chaincode-go)
"""

from __future__ import annotations

OK = 200
ERROR_THRESHOLD = 400
"""From this status on a response is not endorsed."""
ERROR = 500


class Response:
    """Status, message and payload, as the client sees them.

    Args:
        status: `OK`, or `ERROR_THRESHOLD` and above for a refusal.
        message: text for the client, empty on success.
        payload: the result; text is sent as UTF-8.
    """

    __slots__ = ("message", "payload", "status")

    def __init__(self, status: int, message: str = "", payload: bytes | str = b"") -> None:
        self.status = status
        self.message = message
        self.payload = payload.encode() if isinstance(payload, str) else bytes(payload)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Response):
            return NotImplemented
        mine = (self.status, self.message, self.payload)
        return mine == (other.status, other.message, other.payload)

    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    def __repr__(self) -> str:
        return f"Response({self.status}, {self.message!r}, <{len(self.payload)} bytes>)"


def success(payload: bytes | str = b"") -> Response:
    """Make the response of a transaction that worked."""
    return Response(OK, "", payload)


def error(message: str, status: int = ERROR, payload: bytes | str = b"") -> Response:
    """Make the response of a transaction that failed; nothing of it reaches the ledger."""
    return Response(status, message, payload)
