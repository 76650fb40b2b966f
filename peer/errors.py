"""Everything the peer raises on purpose.

Room:      peer.errors   (a leaf: imports nothing of ours)
Loop:      none

Arguments are data, the sentence is in ``__str__``. Texts that a Fabric client or chaincode may
parse are Fabric's own and stay word for word.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple


class TxKey(NamedTuple):
    """Identity of one execution on one chaincode: a tuple, so that "ab"+"c" is not "a"+"bc"."""

    channel_id: str
    tx_id: str


class PeerError(Exception):
    """Root of the peer's errors."""


class Code(IntEnum):
    """The status codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ErrorDetail(NamedTuple):
    """How one peer or orderer failed, of several a call needed: ``gateway.ErrorDetail``."""

    address: str
    msp_id: str
    message: str


class CallRefused(PeerError):
    """A call of a client is answered with an error.

    Attributes:
        code: never OK.
        message: the sentence the client gets.
        details: one for each peer or orderer that failed.
    """

    def __init__(self, code: Code, message: str, details: Sequence[ErrorDetail] = ()) -> None:
        self.code = code
        self.message = message
        self.details = tuple(details)
        super().__init__(code, message, self.details)

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}"


class CallFailed(PeerError):
    """A call to another machine failed; the sentence is that of Go's client.

    Attributes:
        code: never OK; UNAVAILABLE also where there is no connection.
        message: the server's sentence, or what is known here.
        details: what peers or orderers behind the server said.
    """

    def __init__(self, code: Code, message: str, details: Sequence[ErrorDetail] = ()) -> None:
        self.code = code
        self.message = message
        self.details = tuple(details)
        super().__init__(code, message, self.details)

    def __str__(self) -> str:
        name = "Canceled" if self.code is Code.CANCELLED else self.code.name.title()
        return f"rpc error: code = {name.replace('_', '')} desc = {self.message}"


class ConfigError(PeerError):
    """The configuration cannot be used; carries every problem found, not just the first."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class RuntimeNotUsable(PeerError):
    """The configured runtime is not installed, refuses its options or cannot be reached."""


class UnknownChannel(PeerError):
    """No ledger of that channel is open on this peer."""

    def __init__(self, channel_id: str, known: Sequence[str] = ()) -> None:
        self.channel_id = channel_id
        self.known = tuple(known)
        super().__init__(channel_id, self.known)

    def __str__(self) -> str:
        return f"failed to find ledger for channel: {self.channel_id}" + (
            f" (this peer has joined: {', '.join(self.known)})" if self.known else ""
        )


class UnknownChaincode(PeerError):
    """No committed definition of that name on the channel."""

    def __init__(self, channel_id: str, name: str) -> None:
        self.channel_id = channel_id
        self.name = name
        super().__init__(channel_id, name)

    def __str__(self) -> str:
        hint = f"not defined on channel '{self.channel_id}'; install it first"
        return f"chaincode {self.name} not found ({hint})"


class DefinitionNotUsable(PeerError):
    """A chaincode is defined on a channel, but this peer cannot run it as it is defined.

    Its organisation has not approved the definition, the package is not installed, or is another
    one than was defined.
    """


class InvalidDefinition(PeerError):
    """Name or version of a chaincode break Fabric's rules, or the name is taken by the system."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(name, reason)

    def __str__(self) -> str:
        return self.reason


class PackageError(PeerError):
    """A chaincode package or directory cannot be used."""


class AlreadyInstalled(PackageError):
    """The same package is installed and built; nothing was changed."""

    def __init__(self, ccid: str) -> None:
        self.ccid = ccid
        super().__init__(ccid)

    def __str__(self) -> str:
        return f"chaincode already successfully installed (package ID '{self.ccid}')"


class NotInstalled(PackageError):
    """There is no such package, or no chaincode of that name."""

    def __init__(self, ccid: str) -> None:
        self.ccid = ccid
        super().__init__(ccid)

    def __str__(self) -> str:
        return f"chaincode install package '{self.ccid}' not found"


class PackageInUse(PackageError):
    """A package cannot be removed: chaincodes are defined that run it."""

    def __init__(self, ccid: str, names: Sequence[str]) -> None:
        self.ccid = ccid
        self.names = tuple(names)
        super().__init__(ccid, self.names)

    def __str__(self) -> str:
        return (
            f"package {self.ccid} runs the chaincode {', '.join(self.names)}; "
            "uninstall that by its name"
        )


class LedgerError(PeerError):
    """The ledger refused a request; the text goes to the chaincode."""


class QueryError(LedgerError):
    """A rich query is malformed at `place`, such as ``selector.owner.$in``, or cannot be run."""

    def __init__(self, place: str, reason: str) -> None:
        self.place = place
        self.reason = reason
        super().__init__(place, reason)

    def __str__(self) -> str:
        return f"rich query: {self.place} {self.reason}"


class DocumentsError(LedgerError):
    """The server that holds the documents refuses a request; the text is Fabric's for CouchDB."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        super().__init__(address, reason)

    def __str__(self) -> str:
        return self.reason


class DocumentsUnavailable(DocumentsError):
    """The server that holds the documents does not answer, or only with errors of its own."""

    def __str__(self) -> str:
        return f"CouchDB at {self.address} is not available: {self.reason}"


class DocumentsChanged(LedgerError):
    """A block changed what a rich query finds, after its simulation began: begin again."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        super().__init__(namespace)

    def __str__(self) -> str:
        return (
            f"rich query: documents of {self.namespace} that it finds were changed by a block "
            "since the transaction began; send the proposal again"
        )


class BlockError(LedgerError):
    """A block is malformed or does not follow the ledger's last one; nothing of it was kept.

    `number` is None where the block does not even tell its number.
    """

    def __init__(self, number: int | None, reason: str) -> None:
        self.number = number
        self.reason = reason
        super().__init__(number, reason)

    def __str__(self) -> str:
        which = "a block" if self.number is None else f"block {self.number}"
        return f"{which} cannot be committed: {self.reason}"


class BeforeSnapshot(LedgerError):
    """A ledger that began with a snapshot has not got what is asked for; the text is Fabric's.

    `what` is a block's number or a transaction's id, `first` the number of the oldest block.
    """

    def __init__(self, what: int | str, first: int) -> None:
        self.what = what
        self.first = first
        super().__init__(what, first)

    def __str__(self) -> str:
        if isinstance(self.what, int):
            asked = f"cannot serve block [{self.what}]. The ledger is bootstrapped from a snapshot"
        else:
            asked = (
                f"details for the TXID [{self.what}] not available. Ledger bootstrapped from a "
                "snapshot"
            )
        return f"{asked}. First available block = [{self.first}]"


class SnapshotRequestRefused(LedgerError):
    """A snapshot cannot be asked for, or not be cancelled; the text is Fabric's."""


class SnapshotRefused(LedgerError):
    """The files of a snapshot are damaged, or not a snapshot; nothing was taken from them."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(path, reason)

    def __str__(self) -> str:
        return f"snapshot {self.path}: {self.reason}"


class LedgerStorageError(LedgerError):
    """The files of a ledger cannot be used; what was committed before is untouched."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(path, reason)

    def __str__(self) -> str:
        return f"ledger {self.path}: {self.reason}"


class LedgerLocked(LedgerStorageError):
    """Another process, or another opening in this one, holds the ledger."""


class LedgerCorrupt(LedgerStorageError):
    """A file of the ledger is damaged, or is no ledger of this version."""


class LedgerFull(LedgerStorageError):
    """The disk is full. The block was not committed; it can be once there is room."""


class MembershipError(PeerError):
    """Something is wrong with an identity, an organisation's MSP or a policy over them."""


class MspRefused(MembershipError):
    """The configuration of an MSP cannot be used."""

    def __init__(self, msp_id: str, reason: str) -> None:
        self.msp_id = msp_id
        self.reason = reason
        super().__init__(msp_id, reason)

    def __str__(self) -> str:
        return f"MSP {self.msp_id} cannot be used: {self.reason}"


class MspDirectoryError(MembershipError):
    """A file or directory of an MSP directory cannot be used."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(path, reason)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class IdentityRefused(MembershipError):
    """Bytes are no identity of the MSP they name, or it is not valid there."""

    def __init__(self, msp_id: str, reason: str) -> None:
        self.msp_id = msp_id
        self.reason = reason
        super().__init__(msp_id, reason)

    def __str__(self) -> str:
        return self.reason


class SignatureRefused(MembershipError):
    """A signature is malformed, in the half of S that is refused, or not over this data."""


class PrincipalNotSatisfied(MembershipError):
    """An identity is not what a policy asks for."""


class PolicyError(MembershipError):
    """Something is wrong with a policy, or with the signatures brought before one."""


class PolicyInvalid(PolicyError):
    """A policy cannot be built from its definition."""


class PolicySyntaxError(PolicyError):
    """The text of a policy cannot be read."""

    def __init__(self, text: str, position: int, reason: str) -> None:
        self.text = text
        self.position = position
        self.reason = reason
        super().__init__(text, position, reason)

    def __str__(self) -> str:
        marker = " " * self.position + "^"
        return f"{self.reason} at character {self.position + 1}\n  {self.text}\n  {marker}"


class PolicyNotSatisfied(PolicyError):
    """The signatures do not satisfy the policy.

    Attributes:
        reason: what is missing.
        signers: whose signatures counted.
        discounted: which did not, each with the reason.
    """

    def __init__(
        self, reason: str, signers: Sequence[str] = (), discounted: Sequence[str] = ()
    ) -> None:
        self.reason = reason
        self.signers = tuple(signers)
        self.discounted = tuple(discounted)
        super().__init__(reason, self.signers, self.discounted)

    def __str__(self) -> str:
        text = f"{self.reason}; signed by {', '.join(self.signers) or 'nobody'}"
        return f"{text}; not counted: {'; '.join(self.discounted)}" if self.discounted else text


class ChannelError(PeerError):
    """Something is wrong with a channel's configuration, an update of it, or one of its blocks."""


class ChannelConfigRefused(ChannelError):
    """A channel configuration breaks a rule; `path` is the element that does."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(path, reason)

    def __str__(self) -> str:
        return f"channel configuration, {self.path}: {self.reason}"


class CapabilityUnknown(ChannelConfigRefused):
    """A channel requires a capability that this version of the peer does not have."""

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__(path, f"requires {', '.join(self.names)}, which this peer does not have")


class ChannelExists(ChannelError):
    """The channel has been joined already; `state` is ACTIVE, or INACTIVE while it is paused."""

    def __init__(self, channel_id: str, state: str = "ACTIVE") -> None:
        self.channel_id = channel_id
        self.state = state
        super().__init__(channel_id, state)

    def __str__(self) -> str:
        return f"ledger [{self.channel_id}] already exists with state [{self.state}]"


class ConfigUpdateRefused(ChannelError):
    """A configuration update, or the configuration said to come of one, is not acceptable."""


class BlockRefused(ChannelError):
    """A block does not follow the one before, is damaged, or is not signed as it must be."""

    def __init__(self, channel_id: str, number: int, reason: str) -> None:
        self.channel_id = channel_id
        self.number = number
        self.reason = reason
        super().__init__(channel_id, number, reason)

    def __str__(self) -> str:
        return f"[channel {self.channel_id}] block {self.number} refused: {self.reason}"


class BroadcastRefused(ChannelError):
    """The ordering service does not take a message.

    Attributes:
        status: ``common.Status`` of the wire.
        info: the sentence that goes with it.
    """

    def __init__(self, status: int, info: str) -> None:
        self.status = status
        self.info = info
        super().__init__(status, info)

    def __str__(self) -> str:
        return f"{self.info} (status {self.status})"


class DeliverRefused(BroadcastRefused):
    """A request for blocks is not answered, or not any further."""


class NetworkDirectoryError(ChannelError):
    """The directory of a development network cannot be made or used."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(path, reason)

    def __str__(self) -> str:
        return f"network {self.path}: {self.reason}"


class ProposalRefused(PeerError):
    """A proposal is not taken: unreadable, not authentic, not allowed, or used before.

    The text is Fabric's where Fabric has one.
    """


class AccessDenied(ProposalRefused):
    """Whoever signed a proposal may not use the service it asks for."""


class SimulationFailed(PeerError):
    """A proposal was taken, and there is nothing to endorse: its chaincode gave no response.

    Attributes:
        cause: what went wrong; the text is what clients get, with status 500.
    """

    def __init__(self, text: str, cause: PeerError) -> None:
        self.cause = cause
        super().__init__(text, cause)

    def __str__(self) -> str:
        return str(self.args[0])


class EndorsementsDiffer(PeerError):
    """The answers of several endorsers make no transaction."""


class NoEndorsers(PeerError):
    """No peers that are known here can endorse a transaction as its policies ask for.

    The text is Fabric's where Fabric has one.
    """


class CommitTimeout(PeerError):
    """A transaction was taken to be ordered, and no block has brought it; one still may."""

    def __init__(self, channel_id: str, tx_id: str, limit_s: float) -> None:
        self.channel_id = channel_id
        self.tx_id = tx_id
        self.limit_s = limit_s
        super().__init__(channel_id, tx_id, limit_s)

    def __str__(self) -> str:
        return (
            f"no block of {self.channel_id} has brought the transaction {self.tx_id} within "
            f"{self.limit_s:g} s; one still may"
        )


class ChaincodeError(PeerError):
    """Something is wrong with a chaincode, its process or its stream."""


class InvalidInvocation(ChaincodeError):
    """The call does not fit the chaincode's definition (init required, init not required)."""


class StageTime(NamedTuple):
    """How long a launch was in one of its stages, in seconds."""

    stage: str
    took_s: float

    def __str__(self) -> str:
        return f"{self.stage} {self.took_s * 1e3:.1f} ms"


class Evidence(NamedTuple):
    """What was known when a launch failed.

    Attributes:
        stage: where it failed: package, build, create, upload, start, connect or register.
        stages: what each stage took that had begun, in their order.
        address: the address given to the chaincode, empty before there was one.
        exit: how the process ended, empty while it ran.
        output: its last lines, oldest first.
    """

    stage: str
    stages: tuple[StageTime, ...] = ()
    address: str = ""
    exit: str = ""
    output: tuple[str, ...] = ()

    @property
    def elapsed_s(self) -> float:
        """Seconds from the beginning of the launch to its failure."""
        return sum(took_s for _, took_s in self.stages)

    def __str__(self) -> str:
        times = ", ".join(map(str, self.stages))
        parts = [f"stage {self.stage} after {self.elapsed_s:.2f} s: {times}"]
        if self.address:
            parts.append(f"address {self.address}")
        if self.exit:
            parts.append(self.exit)
        text = "; ".join(parts)
        if self.output:
            text += "; last output:\n  " + "\n  ".join(self.output)
        return text


class LaunchError(ChaincodeError):
    """A chaincode did not become READY. Every caller that waited gets the same error."""

    def __init__(self, ccid: str, reason: str, evidence: Evidence | None = None) -> None:
        self.ccid = ccid
        self.reason = reason
        self.evidence = evidence
        super().__init__(ccid, reason)

    @property
    def stages(self) -> tuple[StageTime, ...]:
        """What each stage took, up to the one it failed in; empty if nothing had begun."""
        return self.evidence.stages if self.evidence else ()

    def __str__(self) -> str:
        text = f"could not launch chaincode {self.ccid}: {self.reason}"
        return f"{text} ({self.evidence})" if self.evidence else text


class BuildError(LaunchError):
    """The package could not be built."""


class StartError(LaunchError):
    """The runtime could not start the chaincode: no command, no engine, no right to execute."""


class StartupTimeout(LaunchError):
    """Not READY within the start-up limit; the instance has been stopped."""


class InstanceExited(LaunchError):
    """The process ended before the chaincode was READY."""


class RegistrationRefused(LaunchError):
    """A REGISTER was refused: wrong name, duplicate, or from a process not launched here."""


class StreamLost(LaunchError):
    """The chaincode connected, then closed or broke its stream before it could be used."""


class ConnectError(LaunchError):
    """A chaincode that runs as a service could not be reached."""


class PeerClosing(LaunchError):
    """The peer is shutting down."""


class ExecuteError(ChaincodeError):
    """One execution failed without a response from the chaincode."""

    def __init__(self, key: TxKey, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(key, reason)

    def __str__(self) -> str:
        return f"failed to execute transaction {self.key.tx_id}: error sending: {self.reason}"


class ExecuteTimeout(ExecuteError):
    """No COMPLETED within the execute limit; the chaincode keeps running."""

    def __init__(self, key: TxKey, limit_s: float) -> None:
        self.limit_s = limit_s
        super().__init__(key, f"timeout expired while executing transaction (limit {limit_s:g} s)")


class StreamTerminated(ExecuteError):
    """The chaincode's stream ended while it executed."""


class DuplicateTransaction(ExecuteError):
    """The same transaction is already running on this chaincode and channel."""


class ChaincodeFailed(ExecuteError):
    """The chaincode answered ERROR, or something that is no response."""

    def __str__(self) -> str:
        return self.reason
