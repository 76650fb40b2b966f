"""Endorse proposals: check, simulate, sign.

Room:      peer.endorser   (imports chaincode, channel, ledger, metrics, msp;
           used by services, client, gateway and library)
Loop:      Trio
Lifetime:  peer; a simulator lives for one proposal
Fabric:    `Endorser.ProcessProposal`, core/endorser/endorser.go (release-2.5)
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import trio

from fabric_protos.codec import decode
from fabric_protos.errors import DecodeError
from fabric_protos.protos import ChaincodeDeploymentSpec, ProposalResponse
from fabric_protos.protos import Response as ResponseMessage
from fabric_protos.stream import ChaincodeInput, SignedProposal
from peer import logs
from peer.chaincode.support import (
    ESCC,
    ChaincodeSupport,
    Definitions,
    EndorsementInfo,
    Execution,
)
from peer.chaincode.transactions import CollectionStore, TransactionParams
from peer.channel.channel import Channel
from peer.endorser import endorsement, preprocess
from peer.endorser.interest import interest_of
from peer.endorser.preprocess import Identities, UnpackedProposal
from peer.errors import (
    DefinitionNotUsable,
    InvalidInvocation,
    LaunchError,
    LedgerError,
    PeerError,
    ProposalRefused,
    SimulationFailed,
    UnknownChaincode,
    UnknownChannel,
)
from peer.ledger.api import SimulationResults, TxSimulator
from peer.metrics import Counter, EndorserMeters, Registry, flag
from peer.msp.identity import SigningIdentity
from peer.reading import read_apart
from peer.scc.access import check_signer

log = logging.getLogger("peer.endorser")

VERSION = 1
OK = 200
ERROR_THRESHOLD = 400
ERROR = 500
PROPOSE = "peer/Propose"
WITHOUT_SIMULATOR = frozenset({"cscc", "qscc"})
"""System chaincodes that read the ledger by themselves, and leave nothing to commit."""


class _Simulated(NamedTuple):
    execution: Execution
    info: EndorsementInfo
    results: SimulationResults


NOTHING = SimulationResults(public=b"")


class Endorser:
    """Processes proposals.

    Args:
        channel: finds a joined channel, None where there is none of that name.
        local: the peer's own MSP; decides on calls without a channel.
        signer: signs the endorsements.
        meters: proposals are counted there.
    """

    def __init__(
        self,
        *,
        chaincode: ChaincodeSupport,
        channel: Callable[[str], Channel | None],
        definitions: Definitions,
        collections: CollectionStore,
        local: Identities,
        signer: SigningIdentity,
        meters: EndorserMeters | None = None,
    ) -> None:
        self._chaincode = chaincode
        self._channel = channel
        self._definitions = definitions
        self._collections = collections
        self._local = local
        self._signer = signer
        self._meters = meters or EndorserMeters(Registry())

    async def process_proposal(self, signed: SignedProposal) -> ProposalResponse:
        """Check a proposal, run it, and endorse what came of it.

        A response of status 400 or more is not endorsed, but an answer all the same; so is a
        chaincode that cannot be run, with status 500.

        Raises:
            ProposalRefused: the proposal itself is not taken; over the wire a gRPC error.

        Cancellation: ends the execution; nothing of it remains but what a launch has started.
        Source: Endorser.ProcessProposal, core/endorser/endorser.go (release-2.5).
        """
        try:
            return await self.endorse(signed)
        except (UnknownChannel, SimulationFailed, LedgerError) as exc:
            text = str(exc)
            if isinstance(exc, UnknownChannel):
                text = f"channel '{exc.channel_id}' not found"
            log.warning("%s", text)
            return ProposalResponse(response=ResponseMessage(status=ERROR, message=text))

    async def endorse(self, signed: SignedProposal) -> ProposalResponse:
        """Process a proposal, for callers in this program: what cannot be run is an error.

        Raises:
            ProposalRefused: the proposal itself is not taken.
            UnknownChannel: it is for a channel that is not joined.
            SimulationFailed: there is nothing to endorse; `cause` tells why.

        Cancellation: as of `process_proposal`.
        """
        meters, began = self._meters, trio.current_time()
        meters.received.inc()
        with _Counting(meters.invalid):
            unpacked = await read_apart(preprocess.unpack, signed, len(signed.proposal_bytes))
        channel_id = unpacked.channel_id
        with logs.bind(channel=channel_id, tx=unpacked.tx_id):
            channel = None
            if channel_id and (channel := self._channel(channel_id)) is None:
                raise UnknownChannel(channel_id)
            self._check(unpacked, channel)
            is_success = False
            try:
                answer = await self._endorsed(unpacked, channel)
                is_success = answer.endorsement is not None or not channel_id
                meters.successful.inc(by=is_success)
                return answer
            finally:
                took_s = trio.current_time() - began
                meters.durations.observe(took_s, channel_id, unpacked.name, flag(is_success))

    def _check(self, unpacked: UnpackedProposal, channel: Channel | None) -> None:
        """Check who proposes, that the transaction is new, and that its creator may propose."""
        with _Counting(self._meters.invalid):
            identities = self._local if channel is None else channel.bundle.msps
            creator = preprocess.check(unpacked, identities)
        if channel is None:
            return
        which = (unpacked.channel_id, unpacked.name)
        if channel.ledger.has_transaction(unpacked.tx_id):
            self._meters.duplicates.inc(*which)
            raise ProposalRefused(
                f"duplicate transaction found [{unpacked.tx_id}]. "
                f"Creator [{unpacked.signature_header.creator.hex()}]"
            )
        if not self._chaincode.is_system(unpacked.name):
            with _Counting(self._meters.denied, *which):
                check_signer(channel, PROPOSE, creator)

    async def _endorsed(
        self, unpacked: UnpackedProposal, channel: Channel | None
    ) -> ProposalResponse:
        simulated = await self._simulate(unpacked, channel)
        response = simulated.execution.response
        if channel is not None and ERROR_THRESHOLD <= response.status < ERROR:
            which = (unpacked.channel_id, unpacked.name)
            self._meters.not_endorsed.inc(*which, flag(True))
        if response.status < ERROR and (channel is None or response.status >= ERROR_THRESHOLD):
            return ProposalResponse(response=endorsement.message_of(response))
        if response.status < ERROR:
            self._check_plugin(unpacked, simulated.info.plugin)
        payload = endorsement.response_payload(
            unpacked.proposal_hash,
            results=simulated.results.public,
            event=simulated.execution.event,
            response=response,
            name=unpacked.name,
            version=simulated.info.version,
        )
        answer = ProposalResponse(
            response=endorsement.message_of(response),
            payload=payload,
            interest=interest_of(simulated.results, self._chaincode.is_system),
        )
        if response.status < ERROR:
            answer.version = VERSION
            answer.endorsement = endorsement.endorse(payload, self._signer)
        return answer

    async def _simulate(self, unpacked: UnpackedProposal, channel: Channel | None) -> _Simulated:
        """Run the chaincode on one snapshot of the channel and take what it read and wrote."""
        simulator = history = None
        if channel is not None and unpacked.name not in WITHOUT_SIMULATOR:
            simulator = channel.ledger.new_tx_simulator(unpacked.tx_id)
        try:
            if channel is not None and simulator is not None and channel.ledger.has_history:
                history = channel.ledger.new_history_query_executor()
            info = self._info(unpacked, simulator)
            params = TransactionParams(
                channel_id=unpacked.channel_id,
                tx_id=unpacked.tx_id,
                namespace=unpacked.name,
                signed_proposal=unpacked.signed,
                simulator=simulator,
                history=history,
                collections=None if channel is None else self._collections,
            )
            try:
                execution = await self._call(params, unpacked, info)
                results = NOTHING
                if simulator is not None:
                    results = simulator.get_tx_simulation_results()
                    if channel is not None and results.private:
                        await self._keep_private(unpacked, channel, results)
            except PeerError as exc:
                self._meters.not_simulated.inc(unpacked.channel_id, unpacked.name)
                reason = _reason(exc, unpacked.tx_id)
                raise SimulationFailed(f"error in simulation: {reason}", exc) from exc
            return _Simulated(execution, info, results)
        finally:
            if simulator is not None:
                simulator.done()

    def _check_plugin(self, unpacked: UnpackedProposal, plugin: str) -> None:
        """Refuse to endorse otherwise than a definition says.

        Source: `EndorseWithPlugin`, core/endorser/plugin_endorser.go (release-2.5).
        """
        if plugin == ESCC:
            return
        self._meters.not_endorsed.inc(unpacked.channel_id, unpacked.name, flag(False))
        named = f"plugin with name {plugin}"
        cause = DefinitionNotUsable(f"{named} could not be used: {named} wasn't found")
        raise SimulationFailed(f"endorsing with plugin failed: {cause}", cause)

    def _info(self, unpacked: UnpackedProposal, simulator: TxSimulator | None) -> EndorsementInfo:
        """Return what is endorsed, and by what; reading it is part of the simulation."""
        name, channel_id = unpacked.name, unpacked.channel_id
        if self._chaincode.is_system(name):
            return EndorsementInfo("syscc", name, init_required=False)
        try:
            return self._definitions.endorsement_info(channel_id, name, simulator)
        except PeerError as exc:
            raise SimulationFailed(
                f"make sure the chaincode {name} has been successfully defined on channel "
                f"{channel_id} and try again: {exc}",
                exc,
            ) from exc

    async def _call(
        self, params: TransactionParams, unpacked: UnpackedProposal, info: EndorsementInfo
    ) -> Execution:
        execution = await self._chaincode.execute(params, unpacked.name, unpacked.input, info)
        if execution.response.status >= ERROR_THRESHOLD:
            return Execution(execution.response, None)
        args = unpacked.input.args
        if unpacked.name == "lscc" and len(args) > 2 and args[0] in (b"deploy", b"upgrade"):
            await self._initialise(params, args[2])
        return execution

    async def _initialise(self, params: TransactionParams, deployment: bytes) -> None:
        """Run Init of a chaincode that this very simulation defines; only its errors count.

        Source: `callChaincode`, core/endorser/endorser.go (release-2.5).
        """
        try:
            spec = decode(ChaincodeDeploymentSpec, deployment)
        except DecodeError as exc:
            raise InvalidInvocation(f"error unmarshalling ChaincodeDeploymentSpec: {exc}") from exc
        chaincode = spec.chaincode_spec
        if chaincode is None or chaincode.chaincode_id is None:
            raise InvalidInvocation("the ChaincodeDeploymentSpec names no chaincode")
        name, version = chaincode.chaincode_id.name, chaincode.chaincode_id.version
        if self._chaincode.is_system(name):
            raise InvalidInvocation(
                f"attempting to deploy a system chaincode {name}/{params.channel_id}"
            )
        if spec.code_package:
            raise InvalidInvocation("lscc upgrade/deploy should not include a code packages")
        payload = ChaincodeInput(args=chaincode.input.args if chaincode.input else [])
        with _Counting(self._meters.not_instantiated, params.channel_id, name):
            await self._chaincode.execute_legacy_init(params, name, version, payload)

    async def _keep_private(
        self, unpacked: UnpackedProposal, channel: Channel, results: SimulationResults
    ) -> None:
        if unpacked.name == "lscc":
            raise LedgerError("Private data is forbidden to be used in instantiate")
        await channel.ledger.keep_private_data(unpacked.tx_id, results.private)


class _Counting:
    """Counts what is refused or fails in its block."""

    __slots__ = ("_counter", "_labels")

    def __init__(self, counter: Counter, *labels: str) -> None:
        self._counter = counter
        self._labels = labels

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is not None and issubclass(kind, PeerError):
            self._counter.inc(*self._labels)


def _reason(exc: PeerError, tx_id: str) -> str:
    """Return why a simulation failed, in Fabric's words as far as clients look for them."""
    match exc:
        case LaunchError():
            return f"failed to execute transaction {tx_id}: {exc}"
        case InvalidInvocation() | UnknownChaincode() | DefinitionNotUsable():
            return f"failed to execute transaction {tx_id}: invalid invocation: {exc}"
        case _:
            return str(exc)
