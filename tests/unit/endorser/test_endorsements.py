"""What is endorsed, what is only answered, and what a simulation leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

import pytest
import trio
import trio.testing

from fabric_protos.codec import decode, encode
from fabric_protos.kvrwset import KvrwSet
from fabric_protos.protos import (
    ChaincodeAction,
    ChaincodeDeploymentSpec,
    ChaincodeId,
    ChaincodeInput,
    ChaincodeSpec,
    ProposalResponse,
    ProposalResponsePayload,
)
from fabric_protos.protos import ChaincodeEvent as EventMessage
from fabric_protos.rwset import TxReadWriteSet
from fabric_protos.stream import (
    ChaincodeEvent,
    ChaincodeProposalPayload,
    Header,
    Proposal,
    Response,
    SignatureHeader,
    SignedProposal,
)
from peer.chaincode.transactions import TransactionParams
from peer.errors import (
    ChaincodeFailed,
    DefinitionNotUsable,
    ExecuteTimeout,
    InvalidInvocation,
    LaunchError,
    LedgerError,
    PeerError,
    ProposalRefused,
    SimulationFailed,
    StreamTerminated,
    TxKey,
    UnknownChaincode,
    UnknownChannel,
)
from peer.ledger.api import ValidationCode as Code
from peer.lifecycle.state import LIFECYCLE
from peer.msp.policies import SignedData
from tests.unit.endorser.conftest import Desk, writing
from tests.unit.validation.forging import CC, CHANNEL, VERSION, writes

KEY = TxKey(CHANNEL, "tx")


def endorsed(answer: ProposalResponse) -> ChaincodeAction:
    """Return what an answer's payload says was done."""
    return decode(ChaincodeAction, decode(ProposalResponsePayload, answer.payload).extension)


def namespaces(answer: ProposalResponse) -> dict[str, KvrwSet]:
    sets = decode(TxReadWriteSet, endorsed(answer).results).ns_rwset
    return {each.namespace: decode(KvrwSet, each.rwset) for each in sets}


def message(answer: ProposalResponse) -> str:
    assert answer.response is not None
    assert answer.response.status == 500
    assert (answer.version, answer.payload, answer.endorsement) == (0, b"", None)
    return answer.response.message


# Success


async def test_an_endorsement_is_what_a_transaction_needs(desk: Desk) -> None:
    desk.script.does = writing(["k"])
    desk.script.event = ChaincodeEvent(chaincode_id=CC, tx_id="t", event_name="e", payload=b"p")
    desk.script.answer = Response(status=200, message="fine", payload=b"done")
    signed = desk.signed(b"put")
    answer = await desk.endorser.process_proposal(signed)

    assert answer.version == 1
    assert answer.timestamp is None
    assert answer.response is not None
    assert (answer.response.status, answer.response.message) == (200, "fine")
    assert answer.response.payload == b"done"

    proposal = Proposal.decode(signed.proposal_bytes)
    header = Header.decode(proposal.header)
    public = ChaincodeProposalPayload(
        input=ChaincodeProposalPayload.decode(proposal.payload).input
    ).encode()
    payload = decode(ProposalResponsePayload, answer.payload)
    digest = sha256(header.channel_header + header.signature_header + public).digest()
    assert payload.proposal_hash == digest

    action = endorsed(answer)
    assert action.response == answer.response
    assert action.chaincode_id == ChaincodeId(name=CC, version=VERSION)
    assert decode(EventMessage, action.events) == EventMessage(CC, "t", "e", b"p")

    assert answer.endorsement is not None
    peer = desk.world.scene.peer(0)
    assert answer.endorsement.endorser == peer.creator
    covered = SignedData(answer.payload + peer.creator, peer.creator, answer.endorsement.signature)
    desk.world.channel.bundle.policy("/Channel/Application/Org1/Endorsement").evaluate([covered])


async def test_the_lookup_of_the_definition_is_part_of_what_was_read(desk: Desk) -> None:
    desk.script.does = writing(["k"])
    sets = namespaces(await desk.endorser.process_proposal(desk.signed()))
    assert sets.keys() == {LIFECYCLE, CC}
    [read] = sets[LIFECYCLE].reads
    assert read.key == f"namespaces/fields/{CC}/Sequence"
    assert [write.key for write in sets[CC].writes] == ["k"]


async def test_what_an_execution_gets(desk: Desk) -> None:
    proposal = desk.propose(b"put", b"k")
    await desk.endorser.process_proposal(proposal.signed)
    [(name, params, payload)] = desk.script.calls
    assert (name, params.namespace, payload.args) == (CC, CC, [b"put", b"k"])
    assert (params.channel_id, params.tx_id) == (CHANNEL, proposal.tx_id)
    assert params.signed_proposal is proposal.signed
    assert params.simulator is not None
    assert params.history is not None
    assert params.collections is not None


# Every status


@pytest.mark.parametrize("status", [0, 200, 201, 399])
async def test_below_400_is_endorsed(desk: Desk, status: int) -> None:
    desk.script.answer = Response(status=status)
    answer = await desk.endorser.process_proposal(desk.signed())
    assert answer.endorsement is not None
    assert endorsed(answer).response == answer.response


@pytest.mark.parametrize("status", [400, 404, 499])
async def test_from_400_there_is_only_the_response(desk: Desk, status: int) -> None:
    desk.script.answer = Response(status=status, message="no", payload=b"p")
    desk.script.event = ChaincodeEvent(chaincode_id=CC, event_name="e")
    answer = await desk.endorser.process_proposal(desk.signed())
    assert answer.response is not None
    assert (answer.response.status, answer.response.message) == (status, "no")
    assert answer == ProposalResponse(response=answer.response)


@pytest.mark.parametrize("status", [500, 503])
async def test_from_500_there_is_a_payload_and_no_endorsement(desk: Desk, status: int) -> None:
    desk.script.does = writing(["k"])
    desk.script.answer = Response(status=status, message="broken")
    desk.script.event = ChaincodeEvent(chaincode_id=CC, event_name="e")
    answer = await desk.endorser.process_proposal(desk.signed())
    assert answer.endorsement is None
    assert answer.version == 0
    assert answer.interest is not None
    action = endorsed(answer)
    assert action.response == answer.response
    assert action.events == b""
    assert namespaces(answer).keys() == {LIFECYCLE, CC}


@pytest.mark.parametrize(("status", "has_payload"), [(200, False), (400, False), (500, True)])
async def test_without_a_channel_nothing_is_endorsed(
    desk: Desk, status: int, has_payload: bool
) -> None:
    desk.script.answer = Response(status=status, payload=b"p")
    answer = await desk.endorser.process_proposal(desk.signed(channel_id="", name="cscc"))
    [(_, params, _)] = desk.script.calls
    assert (params.simulator, params.history, params.collections) == (None, None, None)
    assert answer.endorsement is None
    assert bool(answer.payload) == has_payload


@pytest.mark.parametrize("name", ["cscc", "qscc"])
async def test_system_chaincodes_that_only_read(desk: Desk, name: str) -> None:
    """They read the ledger by themselves; the answer is endorsed with nothing read or written."""
    answer = await desk.endorser.process_proposal(desk.signed(name=name))
    [(_, params, _)] = desk.script.calls
    assert params.simulator is None
    action = endorsed(answer)
    assert action.results == b""
    assert action.chaincode_id == ChaincodeId(name=name, version="syscc")
    assert answer.endorsement is not None
    assert answer.interest is None


async def test_system_chaincodes_that_write(desk: Desk) -> None:
    desk.script.does = writing(["k"], LIFECYCLE)
    answer = await desk.endorser.process_proposal(desk.signed(name=LIFECYCLE))
    assert namespaces(answer).keys() == {LIFECYCLE}
    assert endorsed(answer).chaincode_id == ChaincodeId(name=LIFECYCLE, version="syscc")
    assert answer.interest is None


async def test_clients_are_told_which_chaincodes_endorsers_must_have(desk: Desk) -> None:
    def both(params: TransactionParams) -> None:
        writing(["k"], "other")(params)
        writing(["k"])(params)

    desk.script.does = both
    answer = await desk.endorser.process_proposal(desk.signed())
    assert answer.interest is not None
    assert [each.name for each in answer.interest.chaincodes] == [CC, "other"]


# What keeps a chaincode from answering


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (ChaincodeFailed(KEY, "transaction returned with failure: no"), "{failure}"),
        (
            ExecuteTimeout(KEY, 30),
            "failed to execute transaction tx: error sending: timeout expired while executing",
        ),
        (
            StreamTerminated(KEY, "chaincode stream terminated"),
            "failed to execute transaction tx: error sending: chaincode stream terminated",
        ),
        (
            LaunchError("label:0", "no engine"),
            "failed to execute transaction {tx_id}: could not launch chaincode label:0: no engine",
        ),
        (
            InvalidInvocation("init is needed"),
            "failed to execute transaction {tx_id}: invalid invocation: init is needed",
        ),
        (
            UnknownChaincode(CHANNEL, "cc"),
            "failed to execute transaction {tx_id}: invalid invocation: {failure}",
        ),
        (
            DefinitionNotUsable("not installed"),
            "failed to execute transaction {tx_id}: invalid invocation: not installed",
        ),
        (LedgerError("damaged"), "damaged"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PeerError) else "",
)
async def test_a_chaincode_that_gives_no_response(
    desk: Desk, failure: PeerError, text: str
) -> None:
    desk.script.fails = failure
    proposal = desk.propose()
    told = message(await desk.endorser.process_proposal(proposal.signed))
    expected = text.format(failure=failure, tx_id=proposal.tx_id)
    assert told.startswith(f"error in simulation: {expected}")
    with pytest.raises(SimulationFailed) as caught:
        await desk.endorser.endorse(desk.signed())
    assert caught.value.cause is failure


async def test_a_chaincode_that_is_not_defined(desk: Desk) -> None:
    desk.definitions.fails = UnknownChaincode(CHANNEL, CC)
    told = message(await desk.endorser.process_proposal(desk.signed()))
    assert told.startswith(
        "make sure the chaincode cc has been successfully defined on channel mychannel and try "
        "again: chaincode cc not found"
    )
    assert desk.script.calls == []


async def test_a_definition_that_another_plugin_endorses(desk: Desk) -> None:
    desk.definitions.plugin = "other"
    desk.script.does = writing(["key"])
    answer = await desk.endorser.process_proposal(desk.signed(b"put"))
    assert answer.response is not None
    assert (answer.response.status, answer.payload, answer.endorsement) == (500, b"", None)
    assert answer.response.message == (
        "endorsing with plugin failed: plugin with name other could not be used: plugin with name "
        "other wasn't found"
    )
    desk.script.answer = Response(status=404)  # there is nothing to endorse then
    answer = await desk.endorser.process_proposal(desk.signed(b"put"))
    assert answer.response is not None
    assert answer.response.status == 404


async def test_callers_in_this_program_get_errors(desk: Desk) -> None:
    with pytest.raises(UnknownChannel):
        await desk.endorser.endorse(desk.signed(channel_id="other"))


# What stays behind


def is_over(desk: Desk) -> bool:
    """Tell whether the simulator of the last execution has given its snapshot back."""
    [*_, (_, params, _)] = desk.script.calls
    assert params.simulator is not None
    try:
        params.simulator.get_state(CC, "k")
    except LedgerError as exc:
        return "after calling Done()" in str(exc)
    return False


@pytest.mark.parametrize("fails", [None, LedgerError("damaged")])
async def test_the_simulation_ends_with_the_proposal(desk: Desk, fails: PeerError | None) -> None:
    desk.script.fails = fails
    await desk.endorser.process_proposal(desk.signed())
    assert is_over(desk)


async def test_cancelled_while_the_chaincode_runs(desk: Desk, nursery: trio.Nursery) -> None:
    running = trio.Event()

    async def endless(params: TransactionParams) -> None:
        running.set()
        await trio.sleep_forever()

    desk.script.meanwhile = endless
    nursery.start_soon(desk.endorser.process_proposal, desk.signed())
    await running.wait()
    assert not is_over(desk)
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        await trio.testing.wait_all_tasks_blocked()
        assert is_over(desk)


async def test_a_commit_neither_waits_for_a_simulation_nor_is_seen_by_it(desk: Desk) -> None:
    world, seen = desk.world, []

    async def interrupted(params: TransactionParams) -> None:
        assert params.simulator is not None
        seen.append(params.simulator.get_state(CC, "k"))
        assert await world.commit(world.made(writes())) == [Code.VALID]
        seen.append(params.simulator.get_state(CC, "k"))

    desk.script.meanwhile = interrupted
    answer = await desk.endorser.process_proposal(desk.signed())
    assert seen == [None, None]
    assert answer.endorsement is not None
    stale = world.made(endorsed(answer).results)
    assert await world.commit(stale) == [Code.MVCC_READ_CONFLICT]


async def test_private_data_is_kept_until_a_block_brings_it(desk: Desk) -> None:
    collection = "_implicit_org_Org1MSP"

    def write(params: TransactionParams) -> None:
        assert params.simulator is not None
        params.simulator.set_private_data(CC, collection, "k", b"secret")

    desk.script.does = write
    proposal = desk.propose()
    answer = await desk.endorser.process_proposal(proposal.signed)
    assert b"secret" not in answer.payload
    world = desk.world
    transaction = replace(
        world.forged(endorsed(answer).results, 0), nonce=nonce_of(proposal.signed)
    )
    assert await world.commit(transaction.made()) == [Code.VALID]
    reader = world.ledger.new_query_executor()
    assert reader.get_private_data(CC, collection, "k") == b"secret"
    reader.done()


def nonce_of(signed: SignedProposal) -> bytes:
    header = Header.decode(Proposal.decode(signed.proposal_bytes).header)
    return SignatureHeader.decode(header.signature_header).nonce


# Deployment through lscc


def deployment(
    name: str = "legacy", *, code: bytes = b"", args: Sequence[bytes] = (b"init",)
) -> bytes:
    return encode(
        ChaincodeDeploymentSpec(
            chaincode_spec=ChaincodeSpec(
                chaincode_id=ChaincodeId(name=name, version="7"),
                input=ChaincodeInput(args=list(args)),
            ),
            code_package=code,
        )
    )


@pytest.mark.parametrize("function", [b"deploy", b"upgrade"])
async def test_a_deployment_runs_init_in_the_same_simulation(desk: Desk, function: bytes) -> None:
    signed = desk.signed(function, b"mychannel", deployment(), name="lscc")
    answer = await desk.endorser.process_proposal(signed)
    assert answer.endorsement is not None
    assert desk.script.inits == [("legacy", "7")]
    (_, lscc, _), (_, init, payload) = desk.script.calls
    assert lscc.simulator is init.simulator
    assert payload.args == [b"init"]


@pytest.mark.parametrize(
    "args", [(b"install", b"c", b"d"), (b"deploy", b"mychannel"), (b"getid", b"c", b"n")]
)
async def test_other_calls_of_lscc_run_no_init(desk: Desk, args: tuple[bytes, ...]) -> None:
    await desk.endorser.process_proposal(desk.signed(*args, name="lscc"))
    assert desk.script.inits == []


async def test_a_deployment_that_lscc_refuses_runs_no_init(desk: Desk) -> None:
    desk.script.answer = Response(status=400)
    signed = desk.signed(b"deploy", b"mychannel", deployment(), name="lscc")
    await desk.endorser.process_proposal(signed)
    assert desk.script.inits == []


async def test_an_init_that_fails_is_counted(desk: Desk) -> None:
    async def fail(params: TransactionParams) -> None:
        if desk.script.inits:
            raise LedgerError("broken")

    desk.script.meanwhile = fail
    signed = desk.signed(b"deploy", b"mychannel", deployment(), name="lscc")
    await desk.endorser.process_proposal(signed)
    labels = {"channel": CHANNEL, "chaincode": "legacy"}
    assert counted(desk, "chaincode_instantiation_failures", **labels) == 1
    labels["chaincode"] = "lscc"
    assert counted(desk, "proposal_simulation_failures", **labels) == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xff", "error unmarshalling ChaincodeDeploymentSpec"),
        (b"", "names no chaincode"),
        (deployment("qscc"), "attempting to deploy a system chaincode qscc/mychannel"),
        (deployment(code=b"c"), "lscc upgrade/deploy should not include a code packages"),
    ],
    ids=["garbage", "empty", "system", "code"],
)
async def test_deployments_that_are_none(desk: Desk, content: bytes, text: str) -> None:
    signed = desk.signed(b"deploy", b"mychannel", content, name="lscc")
    assert text in message(await desk.endorser.process_proposal(signed))
    assert desk.script.inits == []


async def test_private_data_does_not_go_with_a_deployment(desk: Desk) -> None:
    def write(params: TransactionParams) -> None:
        assert params.simulator is not None
        params.simulator.set_private_data("legacy", "_implicit_org_Org1MSP", "k", b"secret")

    desk.script.does = write
    signed = desk.signed(b"deploy", b"mychannel", deployment(), name="lscc")
    told = message(await desk.endorser.process_proposal(signed))
    assert told == "error in simulation: Private data is forbidden to be used in instantiate"


# Counting


def counted(desk: Desk, name: str, **labels: str) -> float | None:
    return desk.counted.value(f"endorser_{name}", **labels)


WHICH = {"channel": CHANNEL, "chaincode": CC}


async def test_an_endorsed_proposal_is_counted(desk: Desk) -> None:
    await desk.endorser.process_proposal(desk.signed())
    assert counted(desk, "proposals_received") == 1
    assert counted(desk, "successful_proposals") == 1
    assert counted(desk, "proposal_duration_count", **WHICH, success="true") == 1
    assert counted(desk, "proposal_duration_count", **WHICH, success="false") is None


async def test_an_answer_that_is_not_endorsed_is_counted_as_one(desk: Desk) -> None:
    desk.script.answer = Response(status=404)
    await desk.endorser.process_proposal(desk.signed())
    assert counted(desk, "successful_proposals") == 0
    assert counted(desk, "endorsement_failures", **WHICH, chaincodeerror="true") == 1
    assert counted(desk, "proposal_duration_count", **WHICH, success="false") == 1
    desk.script.answer = Response(status=500)  # Fabric's endorsement never gets to see it
    await desk.endorser.process_proposal(desk.signed())
    assert counted(desk, "endorsement_failures", **WHICH, chaincodeerror="true") == 1


async def test_a_simulation_that_fails_is_counted(desk: Desk) -> None:
    desk.script.fails = LedgerError("broken")
    await desk.endorser.process_proposal(desk.signed())
    assert counted(desk, "proposal_simulation_failures", **WHICH) == 1
    assert counted(desk, "proposal_duration_count", **WHICH, success="false") == 1


async def test_what_is_not_even_authentic_is_counted(desk: Desk) -> None:
    endorse = desk.endorser.process_proposal
    signed = desk.signed()
    with pytest.raises(ProposalRefused):
        await endorse(SignedProposal(proposal_bytes=b"\xff", signature=b"s"))
    with pytest.raises(ProposalRefused):
        await endorse(SignedProposal(proposal_bytes=signed.proposal_bytes, signature=b"forged"))
    await endorse(desk.signed(channel_id="nowhere"))
    assert counted(desk, "proposals_received") == 3
    assert counted(desk, "proposal_validation_failures") == 2
    assert counted(desk, "proposal_duration_count", **WHICH, success="false") is None
