"""Chaincode as a plain process.

Room:      runtimes.process   (imports runtimes.api, runtimes.origin; found by runtimes.loader)
Loop:      Trio
Lifetime:  peer

Processes run as the peer's user. They are held together and ended reliably, but this is no
sandbox: code that is not trusted belongs into a container.
"""

from runtimes.process.runtime import ProcessRuntime as ProcessRuntime
from runtimes.process.runtime import backend as backend

__all__ = ["ProcessRuntime", "backend"]
