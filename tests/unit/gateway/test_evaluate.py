"""Evaluate: who is asked, and what comes of it when that goes wrong."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from fabric_protos.gateway import EvaluateRequest
from fabric_protos.protos import ProposalResponse
from fabric_protos.protos import SignedProposal as SignedProposalMessage
from fabric_protos.stream import (
    ChaincodeId,
    ChaincodeInvocationSpec,
    ChaincodeProposalPayload,
    ChaincodeSpec,
    ChannelHeader,
    Header,
    Proposal,
    Response,
    SignedProposal,
)
from peer.chaincode.transactions import TransactionParams
from peer.errors import CallRefused, Code, ExecuteTimeout, TxKey
from peer.gateway.gateway import Limits
from tests.unit.gateway.conftest import (
    CALLER,
    ORG1,
    ORG2,
    OTHER,
    OWN,
    Stage,
    details,
    gone,
    message,
    refusal,
    silent,
)

FAILED = "failed to evaluate transaction, see attached details for more info"
RETURNED = "evaluate call to endorser returned error: "
BROKEN = ExecuteTimeout(TxKey("mychannel", "tx"), 30)


async def forever(params: TransactionParams) -> None:
    await trio.sleep_forever()


async def test_the_own_peer_is_asked(stage: Stage) -> None:
    stage.reachable = stage.nodes[1:]
    stage.scripts[0].answer = Response(status=200, payload=b"mine")
    assert await stage.evaluate(stage.propose(b"get")) == b"mine"
    assert [call[2].args for call in stage.scripts[0].calls] == [[b"get"]]
    assert stage.scripts[1].calls == []


async def test_another_organisation_is_asked_if_the_client_says_so(stage: Stage) -> None:
    stage.reachable = stage.nodes[1:]
    stage.scripts[1].answer = Response(status=299, payload=b"theirs")
    request = EvaluateRequest(
        proposed_transaction=message(stage.propose()),
        target_organizations=[ORG2],
    )
    result = (await stage.gateway.evaluate(request, CALLER)).result
    assert result is not None
    assert (result.status, result.payload) == (299, b"theirs")
    assert stage.scripts[0].calls == []


async def test_a_peer_that_fails_by_itself_is_replaced_by_another(stage: Stage) -> None:
    stage.reachable = stage.nodes[1:]
    stage.scripts[0].fails = BROKEN
    stage.scripts[1].answer = Response(status=200, payload=b"theirs")
    assert await stage.evaluate(stage.propose()) == b"theirs"


async def test_where_all_fail_by_themselves(stage: Stage) -> None:
    stage.reachable = stage.nodes[1:]
    for script in stage.scripts:
        script.fails = BROKEN
    with pytest.raises(CallRefused) as caught:
        await stage.evaluate(stage.propose())
    assert refusal(caught) == (Code.ABORTED, FAILED)
    said = f"error in simulation: {BROKEN}"
    assert details(caught) == [(OWN, ORG1, said), (OTHER, ORG2, said)]


@pytest.mark.parametrize(("status", "text"), [(404, "not found"), (500, "boom"), (199, "odd")])
async def test_what_a_chaincode_refuses_is_final(stage: Stage, status: int, text: str) -> None:
    stage.reachable = stage.nodes[1:]
    stage.scripts[0].answer = Response(status=status, message=text)
    with pytest.raises(CallRefused) as caught:
        await stage.evaluate(stage.propose())
    said = f"chaincode response {status}, {text}"
    assert refusal(caught) == (Code.UNKNOWN, RETURNED + said)
    assert details(caught) == [(OWN, ORG1, said)]
    assert stage.scripts[1].calls == []


async def test_a_proposal_that_the_own_peer_does_not_take(stage: Stage) -> None:
    stage.reachable = stage.nodes[1:]
    proposal = stage.propose()
    proposal.signed.signature = b"forged"
    with pytest.raises(CallRefused) as caught:
        await stage.evaluate(proposal)
    said = "error validating proposal: access denied: channel [mychannel] creator org [Org1MSP]"
    assert refusal(caught) == (Code.FAILED_PRECONDITION, RETURNED + said)
    assert details(caught) == [(OWN, ORG1, said)]
    with pytest.raises(CallRefused) as caught:  # elsewhere it cannot be told from other failures
        await stage.evaluate(proposal, ORG2)
    assert refusal(caught) == (Code.UNAVAILABLE, FAILED)
    assert details(caught) == [(OTHER, ORG2, f"rpc error: code = Unknown desc = {said}")]


async def test_a_peer_that_is_not_there(stage: Stage) -> None:
    stage.reachable = stage.nodes[1:]
    stage.processes[stage.nodes[1]] = gone
    with pytest.raises(CallRefused) as caught:
        await stage.evaluate(stage.propose(), ORG2)
    assert refusal(caught) == (Code.UNAVAILABLE, FAILED)
    said = "rpc error: code = Unavailable desc = connection refused"
    assert details(caught) == [(OTHER, ORG2, said)]


async def test_a_peer_that_does_not_answer(
    stage: Stage, autojump_clock: trio.testing.MockClock
) -> None:
    stage.reachable = stage.nodes[1:]
    stage.processes[stage.nodes[1]] = silent
    stage.limits = Limits(endorsement_s=7.0)
    before = trio.current_time()
    with pytest.raises(CallRefused) as caught:
        await stage.evaluate(stage.propose(), ORG2)
    assert trio.current_time() - before == pytest.approx(7.0)
    assert refusal(caught) == (Code.UNAVAILABLE, FAILED)
    said = "no answer within 7 s (peer.gateway.endorsementTimeout)"
    assert details(caught) == [(OTHER, ORG2, said)]


async def test_the_callers_deadline(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    stage.scripts[0].meanwhile = forever
    before = trio.current_time()
    with pytest.raises(CallRefused) as caught, trio.fail_after(5):
        await stage.evaluate(stage.propose())
    assert trio.current_time() - before == pytest.approx(5.0, abs=0.02)
    assert refusal(caught) == (Code.DEADLINE_EXCEEDED, "evaluate timeout expired")


async def test_a_caller_that_goes(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    stage.scripts[0].meanwhile = forever
    with trio.move_on_after(1) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.evaluate, stage.propose())
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert not scope.cancelled_caught
    assert stage.scripts[0].calls != []


async def test_transient_data_stay_in_the_own_organisation(stage: Stage) -> None:
    stage.reachable = stage.nodes[1:]
    stage.installed.clear()
    proposal = stage.propose(transient={"secret": b"1"})
    with pytest.raises(CallRefused) as caught:
        await stage.evaluate(proposal)
    assert refusal(caught) == (
        Code.FAILED_PRECONDITION,
        (
            "no endorsers found in the gateway's organization; retry specifying target "
            "organization(s) to protect transient data: no peers available to evaluate "
            "chaincode cc in channel mychannel"
        ),
    )
    assert stage.scripts[1].calls == []
    assert await stage.evaluate(proposal, ORG2) == b"done"
    assert await stage.evaluate(stage.propose()) == b"done"


async def test_a_chaincode_that_nobody_can_run(stage: Stage) -> None:
    for proposal, targets in (
        (stage.propose(name="other"), ()),
        (stage.propose(), ("Org3MSP",)),
    ):
        with pytest.raises(CallRefused) as caught:
            await stage.evaluate(proposal, *targets)
        assert caught.value.code is Code.FAILED_PRECONDITION
        assert caught.value.message.startswith("no peers available to evaluate chaincode")


async def test_a_channel_that_is_not_here(stage: Stage) -> None:
    with pytest.raises(CallRefused) as caught:
        await stage.evaluate(stage.propose(channel_id="other"))
    assert refusal(caught) == (
        Code.UNAVAILABLE,
        "failed to get config for channel [other]: could not get last config for channel other",
    )


def proposal_of(channel_id: str, chaincode: ChaincodeId | None) -> SignedProposalMessage:
    header = Header(channel_header=ChannelHeader(channel_id=channel_id).encode())
    spec = ChaincodeInvocationSpec(chaincode_spec=ChaincodeSpec(chaincode_id=chaincode))
    payload = ChaincodeProposalPayload(input=spec.encode())
    proposal = Proposal(header=header.encode(), payload=payload.encode())
    return SignedProposalMessage(proposal_bytes=proposal.encode(), signature=b"s")


@pytest.mark.parametrize(
    ("proposed", "text"),
    [
        (None, "a signed proposal is required"),
        (SignedProposalMessage(signature=b"s"), "a signed proposal is required"),
        (SignedProposalMessage(proposal_bytes=b"\xff"), "error unmarshalling proposal"),
        (proposal_of("", ChaincodeId(name="cc")), "no channel id provided"),
        (proposal_of("c", None), "no chaincode name is provided, channel id [c]"),
        (proposal_of("c", ChaincodeId()), "no chaincode name is provided, channel id [c]"),
    ],
)
async def test_what_is_no_proposal(
    stage: Stage, proposed: SignedProposalMessage | None, text: str
) -> None:
    with pytest.raises(CallRefused) as caught:
        await stage.gateway.evaluate(EvaluateRequest(proposed_transaction=proposed), CALLER)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message.startswith(f"failed to unpack transaction proposal: {text}")


async def test_the_payload_is_the_one_that_was_endorsed(stage: Stage) -> None:
    """Peers may answer with another payload than the chaincode's, or with none."""
    process = stage.processes[stage.nodes[0]]

    async def other(proposal: SignedProposal) -> ProposalResponse:
        answer = await process(proposal)
        assert answer.response is not None
        answer.response.payload = b"something else"
        return answer

    stage.processes[stage.nodes[0]] = other
    assert await stage.evaluate(stage.propose()) == b"done"
