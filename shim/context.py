"""What a transaction was given: arguments, identity, time. Nothing here asks the peer.

Room:      shim   (base of both stubs)
Loop:      none
Lifetime:  transaction
Fabric:    shim/stub.go (fabric-chaincode-go)

Naming: what Fabric calls ``GetTxID`` and answers without the peer is a property, ``tx_id``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fabric_protos.stream import ChaincodeEvent, SignedProposal

from .keys import create_composite_key, split_composite_key
from .requests import as_bytes
from .transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

RENAMED = {
    "get_txid": "tx_id",
    "get_tx_id": "tx_id",
    "get_channel_id": "channel_id",
    "get_creator": "creator",
    "get_transient": "transient",
    "get_binding": "binding",
    "get_decorations": "decorations",
    "get_signed_proposal": "signed_proposal",
    "get_tx_timestamp": "tx_timestamp",
    "get_args": "args",
    "get_string_args": "string_args",
    "get_args_slice": "args_slice",
    "get_msp_id": "msp_id",
}


class Context:
    """The read-only part of a stub."""

    __slots__ = ("_transaction",)
    _transaction: Transaction

    def __getattr__(self, name: str) -> object:
        hint = f": it is the property {RENAMED[name]!r} here" if name in RENAMED else ""
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")

    @property
    def args(self) -> list[bytes]:
        """The arguments as sent; the first one names the function by convention."""
        return self._transaction.input.args

    @property
    def string_args(self) -> list[str]:
        """The arguments as text; bytes that are not UTF-8 become lone surrogates."""
        return [arg.decode(errors="surrogateescape") for arg in self.args]

    @property
    def args_slice(self) -> bytes:
        """All arguments in one."""
        return b"".join(self.args)

    @property
    def function(self) -> str:
        """The first argument, empty without arguments."""
        return self.get_function_and_parameters()[0]

    @property
    def parameters(self) -> list[str]:
        """The arguments after the first."""
        return self.get_function_and_parameters()[1]

    def get_function_and_parameters(self) -> tuple[str, list[str]]:
        """Return the first argument and the rest, as text."""
        function, *parameters = self.string_args or [""]
        return function, parameters

    @property
    def is_init(self) -> bool:
        """Whether the client marked the call as initialisation (Fabric 2)."""
        return self._transaction.input.is_init

    @property
    def tx_id(self) -> str:
        """The transaction's id."""
        return self._transaction.tx_id

    @property
    def channel_id(self) -> str:
        """The channel; in a call from another channel, the callee's."""
        return self._transaction.channel_id

    @property
    def signed_proposal(self) -> SignedProposal | None:
        """The client's proposal with its signature; None when the call has none."""
        return self._transaction.signed_proposal

    @property
    def creator(self) -> bytes:
        """The client as a marshalled ``SerializedIdentity``; see `ClientIdentity`. Empty without a
        proposal."""
        proposal = self._transaction.proposal
        return b"" if proposal is None else proposal.creator

    @property
    def transient(self) -> dict[str, bytes]:
        """Private input of the client; it never reaches the ledger."""
        proposal = self._transaction.proposal
        return {} if proposal is None else proposal.transient

    @property
    def binding(self) -> bytes:
        """SHA-256 over nonce, creator and epoch, 32 bytes; empty without a proposal."""
        proposal = self._transaction.proposal
        return b"" if proposal is None else proposal.binding()

    @property
    def decorations(self) -> dict[str, bytes]:
        """What the peer's decorators added."""
        return self._transaction.input.decorations

    @property
    def tx_timestamp_ns(self) -> int:
        """The client's clock, nanoseconds since the epoch; the same on every endorser.

        Raises:
            LookupError: the call carries no proposal, or the proposal no time.
        """
        proposal = self._transaction.proposal
        if proposal is None or proposal.timestamp_ns is None:
            raise LookupError(f"transaction {self.tx_id} carries no time stamp")
        return proposal.timestamp_ns

    @property
    def tx_timestamp(self) -> datetime:
        """The client's clock, UTC, in microseconds; raises as `tx_timestamp_ns`."""
        from .results import as_datetime

        return as_datetime(self.tx_timestamp_ns)

    @property
    def msp_id(self) -> str:
        """The MSP of the peer, from ``CORE_PEER_LOCALMSPID``.

        Raises:
            LookupError: the variable is not set.
        """
        from os import environ

        if not environ.get("CORE_PEER_LOCALMSPID"):
            raise LookupError("'CORE_PEER_LOCALMSPID' is not set")
        return environ["CORE_PEER_LOCALMSPID"]

    def set_event(self, name: str, payload: bytes | str = b"") -> None:
        """Attach an event to the transaction; the last one set is the one that is sent.

        Raises:
            ValueError: the name is empty, or holds a lone surrogate.
        """
        if not name:
            raise ValueError("event name can not be empty string")
        event = ChaincodeEvent(event_name=name, payload=as_bytes(payload))
        event.encode()  # shows a bad name here, not when the function is over
        self._transaction.event = event

    @staticmethod
    def create_composite_key(object_type: str, attributes: Iterable[str]) -> str:
        """Join a type and its attributes into one key.

        Raises:
            ValueError: a part holds U+0000 or U+10FFFF.
        """
        return create_composite_key(object_type, attributes)

    @staticmethod
    def split_composite_key(key: str) -> tuple[str, list[str]]:
        """Return type and attributes of a composite key.

        Raises:
            ValueError: it is none.
        """
        return split_composite_key(key)
