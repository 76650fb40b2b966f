"""The five methods that current client libraries use, and no others.

Room:      peer.gateway   (imports channels, discovery, endorser, ordering, scc; served by rpc)
Loop:      Trio
Lifetime:  peer
Fabric:    internal/pkg/gateway/{evaluate,endorse,submit,commitstatus,chaincodeevents}.go
           (release-2.5)

What a request says beside what is signed in it is not trusted: it may choose orderers, which look
at the transaction themselves. The sentences of refusals are Fabric's; clients show them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from fabric_protos.codec import decode, encode
from fabric_protos.common import Envelope
from fabric_protos.errors import DecodeError
from fabric_protos.gateway import (
    EndorseRequest,
    EndorseResponse,
    EvaluateRequest,
    EvaluateResponse,
    SignedChaincodeEventsRequest,
    SignedCommitStatusRequest,
    SubmitRequest,
    SubmitResponse,
)
from fabric_protos.protos import (
    ChaincodeAction,
    ChaincodeCall,
    ChaincodeInterest,
    ProposalResponse,
    ProposalResponsePayload,
    Response,
    SignedProposal,
)
from peer import logs
from peer.channels import Channels
from peer.discovery.endorsement import Descriptor, Endorsements
from peer.discovery.peers import KnownPeers, PeerNode
from peer.endorser.transaction import transaction_payload
from peer.errors import (
    BroadcastRefused,
    CallFailed,
    CallRefused,
    Code,
    EndorsementsDiffer,
    ErrorDetail,
    NoEndorsers,
    ProposalRefused,
    UnknownChannel,
)
from peer.gateway import proposals
from peer.gateway.commits import Commits
from peer.gateway.deadlines import in_time
from peer.gateway.endorsing import Endorsing, Failure, Process, ask
from peer.gateway.proposals import Asked
from peer.ordering.submitting import BROADCAST_S, OrdererNode, sentence, submit
from peer.reading import read_apart
from peer.scc.access import AccessControl
from peer.services.api import SMALL, Caller, Method, Streaming, Unary, decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds for one endorser, and for one orderer."""

    endorsement_s: float = 30.0
    broadcast_s: float = BROADCAST_S


class Gateway:
    """Does for clients what takes more than one peer.

    Args:
        processes: how each of the peers is given proposals.
        orderers: returns those of a channel; raises `UnknownChannel` where it is not joined.
    """

    def __init__(
        self,
        *,
        peers: KnownPeers,
        processes: Mapping[PeerNode, Process],
        endorsements: Endorsements,
        orderers: Callable[[str], Sequence[OrdererNode]],
        channels: Channels,
        access: AccessControl,
        limits: Limits = Limits(),
    ) -> None:
        self._peers = peers
        self._processes = processes
        self._endorsements = endorsements
        self._orderers = orderers
        self._channels = channels
        self._commits = Commits(channels, access)
        self._limits = limits

    def methods(self) -> Sequence[Method]:
        """Return what is served."""
        unary = (
            ("Evaluate", EvaluateRequest, self.evaluate, math.inf),
            ("Endorse", EndorseRequest, self.endorse, math.inf),
            ("Submit", SubmitRequest, self.submit, math.inf),
            ("CommitStatus", SignedCommitStatusRequest, self._commits.commit_status, SMALL),
        )
        methods: list[Method] = [
            Unary(
                path=_path(name),
                decode=decoder(request),
                call=call,
                encode=encode,
                max_request=max_request,
            )
            for name, request, call, max_request in unary
        ]
        events = Streaming(
            path=_path("ChaincodeEvents"),
            decode=decoder(SignedChaincodeEventsRequest),
            call=self._commits.chaincode_events,
            encode=encode,
            max_request=SMALL,
            is_endless=True,
        )
        return [*methods, events]

    async def evaluate(self, request: EvaluateRequest, caller: Caller) -> EvaluateResponse:
        """Run a chaincode on one peer and return its response; nothing is committed.

        This peer is asked first, then others of its organisation, then those of others; with
        transient data and no organisations named, only those of its own.

        Raises:
            CallRefused: as the chaincode, or the last peer that was asked, refuses it.
        """
        try:
            asked = proposals.check(await _read(request.proposed_transaction))
        except ProposalRefused as exc:
            text = f"failed to unpack transaction proposal: {exc}"
            raise CallRefused(Code.INVALID_ARGUMENT, text) from exc
        with logs.bind(channel=asked.channel_id, tx=asked.tx_id):
            nodes = self._evaluators(asked, request.target_organizations)
            with in_time("evaluate timeout expired"):
                return await self._evaluate(asked, nodes)

    async def endorse(self, request: EndorseRequest, caller: Caller) -> EndorseResponse:
        """Let as many peers endorse as the policies ask for, and return the transaction to sign.

        Args:
            request: the organisations it names are those that endorse, one peer of each.

        Raises:
            CallRefused: somebody has to endorse and does not.
        """
        try:
            asked = await _read(request.proposed_transaction)
        except ProposalRefused as exc:
            raise CallRefused(Code.INVALID_ARGUMENT, str(exc)) from exc
        if asked is None:
            text = "the proposed transaction must contain a signed proposal"
            raise CallRefused(Code.INVALID_ARGUMENT, text)
        with logs.bind(channel=asked.channel_id, tx=asked.tx_id):
            return await self._endorse(asked, request.endorsing_organizations)

    async def submit(self, request: SubmitRequest, caller: Caller) -> SubmitResponse:
        """Hand a signed transaction to the orderers; that it is committed is another matter.

        Raises:
            CallRefused: they do not take it.
        """
        envelope = request.prepared_transaction
        if envelope is None:
            raise CallRefused(Code.INVALID_ARGUMENT, "a prepared transaction is required")
        if not envelope.signature:
            raise CallRefused(Code.INVALID_ARGUMENT, "prepared transaction must be signed")
        channel_id = request.channel_id
        with logs.bind(channel=channel_id, tx=request.transaction_id):
            try:
                nodes = self._orderers(channel_id)
                bundle = self._channels.get(channel_id).channel.bundle
            except UnknownChannel as exc:
                raise CallRefused(Code.FAILED_PRECONDITION, _no_config(channel_id)) from exc
            if not nodes:
                raise CallRefused(Code.UNAVAILABLE, "no orderer nodes available")
            try:
                with in_time("submit timeout expired while broadcasting to ordering service"):
                    await submit(bundle, nodes, encode(envelope), self._limits.broadcast_s)
            except BroadcastRefused as exc:
                raise CallRefused(Code.ABORTED, sentence(exc)) from exc
            except CallFailed as exc:
                raise CallRefused(exc.code, exc.message, exc.details) from exc
        return SubmitResponse()

    def _evaluators(self, asked: Asked, targets: Sequence[str]) -> list[PeerNode]:
        channel_id = asked.channel_id
        if not self._peers.of_channel(channel_id):
            raise CallRefused(Code.UNAVAILABLE, _no_config(channel_id))
        own = self._peers.own.msp_id
        is_protected = asked.has_transient and not targets
        wanted = [own] if is_protected else targets
        nodes = [
            node
            for node in self._peers.with_chaincode(channel_id, asked.chaincode)
            if node.msp_id in wanted or not wanted
        ]
        if not nodes:
            text = (
                f"no peers available to evaluate chaincode {asked.chaincode} "
                f"in channel {channel_id}"
            )
            if is_protected:
                text = (
                    "no endorsers found in the gateway's organization; retry specifying target "
                    f"organization(s) to protect transient data: {text}"
                )
            raise CallRefused(Code.FAILED_PRECONDITION, text)
        return sorted(nodes, key=lambda node: node.msp_id != own)

    async def _evaluate(self, asked: Asked, nodes: Sequence[PeerNode]) -> EvaluateResponse:
        details = []
        code = Code.UNAVAILABLE
        for node in nodes:
            answer = await self._ask(asked, node)
            if not isinstance(answer, Failure):
                return EvaluateResponse(result=_result(answer))
            code, message, is_final = answer
            details.append(ErrorDetail(node.address, node.msp_id, message))
            if is_final:
                text = f"evaluate call to endorser returned error: {message}"
                raise CallRefused(code, text, details)
        text = "failed to evaluate transaction, see attached details for more info"
        raise CallRefused(code, text, details)

    async def _endorse(self, asked: Asked, organisations: Sequence[str]) -> EndorseResponse:
        endorsing = Endorsing(partial(self._ask, asked))
        if organisations:
            descriptor = self._one_of_each(asked, organisations)
        else:
            with in_time("endorsement timeout expired while collecting first endorsement"):
                interest = await self._first(asked, endorsing)
            descriptor = await self._enough(asked, interest)
        with in_time("endorsement timeout expired while collecting endorsements"):
            responses = await endorsing.satisfy(descriptor)
        if responses is None:
            text = (
                "failed to collect enough transaction endorsements, see attached details for "
                "more info"
            )
            raise CallRefused(Code.ABORTED, text, endorsing.failures)
        try:
            payload = transaction_payload(asked.signed, responses)
        except (EndorsementsDiffer, DecodeError) as exc:
            text = f"failed to assemble transaction: {exc}"
            raise CallRefused(Code.ABORTED, text) from exc
        return EndorseResponse(prepared_transaction=Envelope(payload=payload))

    def _one_of_each(self, asked: Asked, organisations: Sequence[str]) -> Descriptor:
        nodes = self._peers.with_chaincode(asked.channel_id, asked.chaincode)
        groups = {
            msp_id: [node for node in nodes if node.msp_id == msp_id] for msp_id in organisations
        }
        if missing := [msp_id for msp_id, peers in groups.items() if not peers]:
            text = f"failed to find any endorsing peers for org(s): {', '.join(missing)}"
            raise CallRefused(Code.UNAVAILABLE, text)
        return Descriptor(groups, [dict.fromkeys(groups, 1)])

    async def _first(self, asked: Asked, endorsing: Endorsing) -> ChaincodeInterest:
        """Let one peer endorse, and return what it says the transaction touches."""
        plain = ChaincodeInterest(chaincodes=[ChaincodeCall(name=asked.chaincode)])
        nodes = self._peers.with_chaincode(asked.channel_id, asked.chaincode)
        nodes = [node for node in nodes if node.msp_id == self._peers.own.msp_id]
        if not nodes:
            if asked.has_transient:
                text = (
                    "no endorsers found in the gateway's organization; retry specifying "
                    "endorsing organization(s) to protect transient data"
                )
                raise CallRefused(Code.FAILED_PRECONDITION, text)
            descriptor = await self._descriptor(asked, plain)
            nodes = [node for name in descriptor.layouts[0] for node in descriptor.groups[name]]
        for node in nodes:
            if await endorsing.add(node):
                interest = endorsing.responses[node].interest
                # Older peers tell nothing, and there is nothing to tell of system chaincodes.
                return interest if interest is not None and interest.chaincodes else plain
        text = "failed to endorse transaction, see attached details for more info"
        raise CallRefused(Code.ABORTED, text, endorsing.failures)

    async def _enough(self, asked: Asked, interest: ChaincodeInterest) -> Descriptor:
        """Return who has to endorse, and with transient data only who may know them, too."""
        protected = []
        if asked.has_transient:
            protected = [call for call in interest.chaincodes if call.no_private_reads]
        if not protected:
            return await self._descriptor(asked, interest)
        careful = ChaincodeInterest(
            chaincodes=[
                ChaincodeCall(
                    name=call.name,
                    collection_names=call.collection_names,
                    key_policies=call.key_policies,
                    disregard_namespace_policy=call.disregard_namespace_policy,
                )
                for call in interest.chaincodes
            ]
        )
        try:
            return await self._descriptor(asked, careful)
        except CallRefused as exc:
            # refuses what is impossible with less care, too
            await self._descriptor(asked, interest)
            collections = " ".join(name for call in protected for name in call.collection_names)
            text = (
                "requires endorsement from organisation(s) that are not in the distribution "
                f"policy of the private data collection(s): [{collections}]; retry specifying "
                "trusted endorsing organizations to protect transient data"
            )
            raise CallRefused(Code.FAILED_PRECONDITION, text) from exc

    async def _descriptor(self, asked: Asked, interest: ChaincodeInterest) -> Descriptor:
        try:
            return await self._endorsements.descriptor(asked.channel_id, interest)
        except NoEndorsers as exc:
            text = (
                "no combination of peers can be derived which satisfy the endorsement policy: "
                f"{exc}"
            )
            raise CallRefused(Code.FAILED_PRECONDITION, text) from exc

    async def _ask(self, asked: Asked, node: PeerNode) -> ProposalResponse | Failure:
        return await ask(self._processes[node], asked.signed, self._limits.endorsement_s)


async def _read(proposed: SignedProposal | None) -> Asked | None:
    size = len(proposed.proposal_bytes) if proposed is not None else 0
    return await read_apart(proposals.read, proposed, size)


def _result(answer: ProposalResponse) -> Response:
    """Return a response with the payload that was endorsed, which is the chaincode's own."""
    result = answer.response or Response()
    try:
        payload = decode(ProposalResponsePayload, answer.payload)
        endorsed = decode(ChaincodeAction, payload.extension).response
    except DecodeError:
        return result
    if endorsed is not None:
        result.payload = endorsed.payload
    return result


def _no_config(channel_id: str) -> str:
    return (
        f"failed to get config for channel [{channel_id}]: "
        f"could not get last config for channel {channel_id}"
    )


def _path(name: str) -> str:
    return f"/gateway.Gateway/{name}"
