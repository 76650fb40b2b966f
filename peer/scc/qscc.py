"""qscc: blocks and transactions of the channels this peer has joined.

Room:      peer.scc   (imports peer.ledger; used by assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    core/scc/qscc/query.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fabric_protos.codec import decode, encode
from fabric_protos.common import Block, Envelope
from fabric_protos.protos import ProcessedTransaction
from fabric_protos.stream import Response
from peer.channel.channel import Channel
from peer.errors import AccessDenied, BeforeSnapshot, LedgerError, PeerError
from peer.ledger.api import Ledger
from peer.scc.access import AccessControl, asked_for
from peer.scc.runner import SystemCall

OK = 200
LAST_BLOCK = 2**64 - 1
"""Asks for the last block, whatever its number."""


class Qscc:
    """Answers queries of a ledger.

    Args:
        channel: finds a joined channel, None where there is none of that name.
    """

    name = "qscc"

    def __init__(self, *, access: AccessControl, channel: Callable[[str], Channel | None]) -> None:
        self._access = access
        self._channel = channel

    async def invoke(self, call: SystemCall) -> Response:
        """Answer one call; see `SystemChaincode.invoke`."""
        args = [bytes(arg) for arg in call.args]
        if len(args) < 2:
            raise PeerError(f"Incorrect number of arguments, {len(args)}")
        function, channel_id = (arg.decode(errors="replace") for arg in args[:2])
        signed = call.params.signed_proposal
        if (name := asked_for(signed)) != self.name:
            raise PeerError(
                "Rejecting invoke of QSCC from another chaincode because of potential for "
                f"deadlocks, original invocation for '{name}'"
            )
        if function != "GetChainInfo" and len(args) < 3:
            raise PeerError(f"missing 3rd argument for {function}")
        channel = self._channel(channel_id)
        if channel is None:
            raise PeerError(f"Invalid chain ID, {channel_id}")
        try:
            self._access.check(f"{self.name}/{function}", channel_id, signed)
        except AccessDenied as exc:
            raise AccessDenied(f"access denied for [{function}][{channel_id}]: [{exc}]") from exc
        argument = args[2] if len(args) > 2 else b""
        answer = _FUNCTIONS[function]
        return Response(status=OK, payload=await answer(channel.ledger, argument))


async def _chain_info(ledger: Ledger, _: bytes) -> bytes:
    return encode(ledger.blockchain_info())


async def _block_by_number(ledger: Ledger, argument: bytes) -> bytes:
    try:
        number = int(argument)
    except ValueError:
        number = -1
    # Python reads more as a number than Go does: signs, spaces, underscores.
    if not argument.isdigit() or number > LAST_BLOCK:
        raise PeerError(f"Failed to parse block number with error: {argument!r} is no such number")
    wanted = ledger.height - 1 if number == LAST_BLOCK else number
    return await _found(
        f"block number {number}", f"block number [{number}]", ledger.block_by_number(wanted)
    )


async def _block_by_hash(ledger: Ledger, header_hash: bytes) -> bytes:
    told = header_hash.hex()
    return await _found(
        f"block hash {told}", f"block hash [{told}]", ledger.block_by_hash(header_hash)
    )


async def _block_by_tx_id(ledger: Ledger, argument: bytes) -> bytes:
    tx_id = argument.decode(errors="replace")
    return await _found(
        f"block for txID {tx_id}", f"transaction ID [{tx_id}]", ledger.block_by_tx_id(tx_id)
    )


async def _transaction_by_id(ledger: Ledger, argument: bytes) -> bytes:
    tx_id = argument.decode(errors="replace")
    failed = f"Failed to get transaction with id {tx_id}, error"
    try:
        found = await ledger.transaction_by_id(tx_id)
    except BeforeSnapshot as exc:
        raise LedgerError(f"{failed} {exc}") from exc
    if found is None:
        raise LedgerError(f"{failed} no such transaction ID [{tx_id}] in index")
    envelope = decode(Envelope, found.envelope)
    return encode(ProcessedTransaction(transaction_envelope=envelope, validation_code=found.code))


async def _found(asked: str, missing: str, block: Awaitable[Block | None]) -> bytes:
    try:
        found = await block
    except BeforeSnapshot as exc:
        raise LedgerError(f"Failed to get {asked}, error {exc}") from exc
    if found is None:
        raise LedgerError(f"Failed to get {asked}, error no such {missing} in index")
    return encode(found)


_FUNCTIONS: dict[str, Callable[[Ledger, bytes], Awaitable[bytes]]] = {
    "GetChainInfo": _chain_info,
    "GetBlockByNumber": _block_by_number,
    "GetBlockByHash": _block_by_hash,
    "GetBlockByTxID": _block_by_tx_id,
    "GetTransactionByID": _transaction_by_id,
}
"""By name; only these have a policy, so no other gets past the check of access."""
