"""What the chaincode library raises on purpose.

Room:      shim   (a leaf: imports nothing)
Loop:      none
Lifetime:  none
"""


class ShimError(Exception):
    """Root of the library's errors."""


class ChaincodeError(ShimError):
    """Raised by chaincode to end its transaction with an error response.

    Attributes:
        message: text the client reads.
        status: 400 and above is not endorsed.
        payload: bytes for the client.
    """

    def __init__(self, message: str, status: int = 500, payload: bytes | str = b"") -> None:
        self.message = message
        self.status = status
        self.payload = payload.encode() if isinstance(payload, str) else payload
        super().__init__(message, status)

    def __str__(self) -> str:
        return self.message


class PeerError(ShimError):
    """The peer refused a request of this transaction.

    Attributes:
        text: the peer's own words.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)


class StreamClosed(ShimError):
    """The stream to the peer, or this transaction's part in it, is over."""


class SetupError(ShimError):
    """The chaincode cannot start with these flags, variables or files."""
