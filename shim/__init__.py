"""Write chaincode in Python.

Room:      shim   (imports fabric_protos, never peer; installs into a chaincode's image)
Loop:      asyncio; plain functions run in threads
Lifetime:  the process

Names are loaded when they are first used: how fast a chaincode registers is part of how fast its
first transaction answers.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .chaincode import Chaincode as Chaincode
    from .errors import ChaincodeError as ChaincodeError
    from .errors import PeerError as PeerError
    from .errors import SetupError as SetupError
    from .errors import ShimError as ShimError
    from .errors import StreamClosed as StreamClosed
    from .identity import ClientIdentity as ClientIdentity
    from .main import start as start
    from .main import start_in_process as start_in_process
    from .memory import MemoryStream as MemoryStream
    from .memory import memory_streams as memory_streams
    from .policy import KeyEndorsementPolicy as KeyEndorsementPolicy
    from .response import ERROR as ERROR
    from .response import ERROR_THRESHOLD as ERROR_THRESHOLD
    from .response import OK as OK
    from .response import Response as Response
    from .response import error as error
    from .response import success as success
    from .results import KeyModification as KeyModification
    from .results import KeyValue as KeyValue
    from .results import Page as Page
    from .results import Results as Results
    from .results import SyncResults as SyncResults
    from .server import ChaincodeServer as ChaincodeServer
    from .stub import ChaincodeStub as ChaincodeStub
    from .sync_stub import SyncChaincodeStub as SyncChaincodeStub
    from .tls import TLS as TLS
    from .transport import Duplex as Duplex
    from .workers import Workers as Workers

__all__ = [
    "ERROR",
    "ERROR_THRESHOLD",
    "OK",
    "TLS",
    "Chaincode",
    "ChaincodeError",
    "ChaincodeServer",
    "ChaincodeStub",
    "ClientIdentity",
    "Duplex",
    "KeyEndorsementPolicy",
    "KeyModification",
    "KeyValue",
    "MemoryStream",
    "Page",
    "PeerError",
    "Response",
    "Results",
    "SetupError",
    "ShimError",
    "StreamClosed",
    "SyncChaincodeStub",
    "SyncResults",
    "Workers",
    "error",
    "memory_streams",
    "start",
    "start_in_process",
    "success",
]

_HOMES = {
    "chaincode": ("Chaincode",),
    "errors": ("ChaincodeError", "PeerError", "SetupError", "ShimError", "StreamClosed"),
    "identity": ("ClientIdentity",),
    "main": ("start", "start_in_process"),
    "memory": ("MemoryStream", "memory_streams"),
    "policy": ("KeyEndorsementPolicy",),
    "response": ("ERROR", "ERROR_THRESHOLD", "OK", "Response", "error", "success"),
    "results": ("KeyModification", "KeyValue", "Page", "Results", "SyncResults"),
    "server": ("ChaincodeServer",),
    "stub": ("ChaincodeStub",),
    "sync_stub": ("SyncChaincodeStub",),
    "tls": ("TLS",),
    "transport": ("Duplex",),
    "workers": ("Workers",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value
