"""The base class of a chaincode.

Room:      shim   (imports its own files only)
Loop:      asyncio for `async def` methods, a worker thread for plain ones
Lifetime:  the process; one object serves every transaction
Fabric:    `Chaincode`, shim/interfaces.go (fabric-chaincode-go)
"""

from __future__ import annotations

from typing import Any

from .response import success


class Chaincode:
    """Derive from this and write `invoke`, and `init` where there is something to set up.

    An ``async def`` receives a `ChaincodeStub`, whose methods are awaited. A plain ``def`` runs in
    a worker thread and receives a `SyncChaincodeStub` with the same methods, blocking. Both may
    return a `Response`, ``bytes``, ``str``, or None for an empty success; any exception becomes an
    error response, a `ChaincodeError` with the status it names.

    One object serves many transactions at once: keep nothing of a transaction on ``self``.
    """

    async def init(self, stub: Any) -> Any:
        """Prepare the ledger when the chaincode is instantiated or upgraded (Fabric 1.x)."""
        return success()

    def invoke(self, stub: Any) -> Any:
        """Run one transaction."""
        raise NotImplementedError(f"{type(self).__name__} has no invoke method")
