"""Endorse: as many as the policies ask for, of those that can be reached."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from fabric_protos.codec import decode, encode
from fabric_protos.common import Envelope, Payload
from fabric_protos.gateway import EndorseRequest
from fabric_protos.protos import (
    ChaincodeActionPayload,
    ChaincodeProposalPayload,
    ProposalResponse,
    Transaction,
)
from fabric_protos.protos import SignedProposal as SignedProposalMessage
from fabric_protos.stream import Response, SignedProposal
from peer.chaincode.transactions import TransactionParams
from peer.discovery.endorsement import Descriptor
from peer.discovery.peers import PeerNode
from peer.errors import CallRefused, Code, ExecuteTimeout, TxKey
from peer.gateway.endorsing import Endorsing, Failure
from peer.gateway.gateway import Limits
from peer.ledger.api import ValidationCode
from peer.ledger.rwset import RwSetBuilder
from tests.unit.endorser.conftest import writing
from tests.unit.gateway.conftest import (
    CALLER,
    ORG1,
    ORG2,
    OTHER,
    OWN,
    Stage,
    details,
    gone,
    refusal,
    silent,
)
from tests.unit.validation.forging import CC, key_policy

FIRST = "failed to endorse transaction, see attached details for more info"
MORE = "failed to collect enough transaction endorsements, see attached details for more info"
IMPOSSIBLE = "no combination of peers can be derived which satisfy the endorsement policy: "
BOTH = "AND('Org1MSP.peer', 'Org2MSP.peer')"
BROKEN = ExecuteTimeout(TxKey("mychannel", "tx"), 30)
COLLECTION = "_implicit_org_Org2MSP"


def endorsers(payload: bytes) -> list[bytes]:
    """Return who endorsed a transaction."""
    return [each.endorser for each in action_of(payload).action.endorsements]  # type: ignore[union-attr]  # it has one


def action_of(payload: bytes) -> ChaincodeActionPayload:
    [action] = decode(Transaction, decode(Payload, payload).data).actions
    return decode(ChaincodeActionPayload, action.payload)


async def test_one_is_enough(stage: Stage) -> None:
    stage.reachable = stage.nodes[1:]
    payload = await stage.endorse(stage.propose(b"put", transient={"secret": b"1"}))
    assert endorsers(payload) == [stage.scene.peer(0).creator]
    assert stage.scripts[1].calls == []
    proposed = decode(ChaincodeProposalPayload, action_of(payload).chaincode_proposal_payload)
    assert proposed.transient_map == {}


async def test_what_comes_of_it_is_valid(ordered: Stage) -> None:
    stage = ordered
    for script in stage.scripts:
        script.does = writing(["k"])
    proposal = stage.propose()
    await stage.submit(await stage.endorse(proposal))
    status = await stage.joined.statuses.wait(proposal.tx_id)
    assert status.code is ValidationCode.VALID
    assert stage.world.state("k") == b"v"


async def test_both_are_needed(stage: Stage) -> None:
    await stage.define(BOTH)
    stage.reachable = stage.nodes[1:]
    payload = await stage.endorse(stage.propose())
    assert endorsers(payload) == [stage.scene.peer(index).creator for index in (0, 1)]
    envelope = encode(Envelope(payload=payload, signature=stage.client.sign(payload)))
    assert await stage.world.judge(envelope) == [ValidationCode.VALID]


async def test_a_key_with_a_policy_of_its_own(stage: Stage) -> None:
    """The chaincode's policy is satisfied by Org1, the one of the key is not."""
    sets = RwSetBuilder()
    sets.add_write(CC, "theirs", b"1")
    sets.add_metadata_write(CC, "theirs", key_policy("OR('Org2MSP.peer')"))
    await stage.world.put(sets)
    stage.reachable = stage.nodes[1:]
    for script in stage.scripts:
        script.does = writing(["theirs"])
    payload = await stage.endorse(stage.propose())
    assert endorsers(payload) == [stage.scene.peer(1).creator]
    envelope = encode(Envelope(payload=payload, signature=stage.client.sign(payload)))
    assert await stage.world.judge(envelope) == [ValidationCode.VALID]


async def test_one_is_needed_that_nobody_knows(stage: Stage) -> None:
    await stage.define(BOTH)
    with pytest.raises(CallRefused) as caught:
        await stage.endorse(stage.propose())
    text = "no peer combination can satisfy the endorsement policy"
    assert refusal(caught) == (Code.FAILED_PRECONDITION, IMPOSSIBLE + text)
    assert len(stage.scripts[0].calls) == 1  # only then is it known what is needed


@pytest.mark.parametrize("proposal", [{"channel_id": "other"}, {"name": "other"}, {"name": "qscc"}])
async def test_what_is_not_defined(stage: Stage, proposal: dict[str, str]) -> None:
    with pytest.raises(CallRefused) as caught:
        await stage.endorse(stage.propose(**proposal))
    name, channel = proposal.get("name", CC), proposal.get("channel_id", "mychannel")
    text = f"No metadata was found for chaincode {name} in channel {channel}"
    assert refusal(caught) == (Code.FAILED_PRECONDITION, IMPOSSIBLE + text)


async def test_definitions_are_endorsed_by_most(stage: Stage) -> None:
    stage.reachable = stage.nodes[1:]
    payload = await stage.endorse(stage.propose(name="_lifecycle"))
    assert endorsers(payload) == [stage.scene.peer(index).creator for index in (0, 1)]


async def test_the_client_chooses_the_organisations(stage: Stage) -> None:
    stage.reachable = stage.nodes[1:]
    assert endorsers(await stage.endorse(stage.propose(), ORG2)) == [stage.scene.peer(1).creator]
    assert stage.scripts[0].calls == []
    payload = await stage.endorse(stage.propose(), ORG2, ORG1, ORG2)
    assert sorted(endorsers(payload)) == [stage.scene.peer(index).creator for index in (0, 1)]


async def test_an_organisation_that_nobody_knows(stage: Stage) -> None:
    with pytest.raises(CallRefused) as caught:
        await stage.endorse(stage.propose(), ORG1, ORG2, "Org3MSP")
    text = "failed to find any endorsing peers for org(s): Org2MSP, Org3MSP"
    assert refusal(caught) == (Code.UNAVAILABLE, text)
    assert stage.scripts[0].calls == []


async def test_the_first_fails_whatever_the_reason(stage: Stage) -> None:
    stage.reachable = stage.nodes[1:]
    forged = stage.propose()
    forged.signed.signature = b"forged"
    with pytest.raises(CallRefused) as caught:
        await stage.endorse(forged)
    assert refusal(caught) == (Code.ABORTED, FIRST)
    said = "error validating proposal: access denied: channel [mychannel] creator org [Org1MSP]"
    assert details(caught) == [(OWN, ORG1, said)]
    stage.scripts[0].answer = Response(status=418, message="no")
    with pytest.raises(CallRefused) as caught:
        await stage.endorse(stage.propose())
    assert refusal(caught) == (Code.ABORTED, FIRST)
    assert details(caught) == [(OWN, ORG1, "chaincode response 418, no")]
    stage.scripts[0].fails = BROKEN
    with pytest.raises(CallRefused) as caught:
        await stage.endorse(stage.propose())
    assert refusal(caught) == (Code.ABORTED, FIRST)
    assert details(caught) == [(OWN, ORG1, f"error in simulation: {BROKEN}")]


async def test_another_fails(stage: Stage) -> None:
    await stage.define(BOTH)
    stage.reachable = stage.nodes[1:]
    stage.processes[stage.nodes[1]] = gone
    with pytest.raises(CallRefused) as caught:
        await stage.endorse(stage.propose())
    assert refusal(caught) == (Code.ABORTED, MORE)
    said = "rpc error: code = Unavailable desc = connection refused"
    assert details(caught) == [(OTHER, ORG2, said)]


async def test_they_do_not_agree(stage: Stage) -> None:
    await stage.define(BOTH)
    stage.reachable = stage.nodes[1:]
    stage.scripts[1].answer = Response(status=200, payload=b"something else")
    with pytest.raises(CallRefused) as caught:
        await stage.endorse(stage.propose())
    assert refusal(caught) == (Code.ABORTED, MORE)
    assert details(caught) == [(OTHER, ORG2, "ProposalResponsePayloads do not match")]


async def test_an_answer_without_an_endorsement(stage: Stage) -> None:
    process = stage.processes[stage.nodes[0]]

    async def unsigned(proposal: SignedProposal) -> ProposalResponse:
        answer = await process(proposal)
        answer.endorsement = None
        return answer

    stage.processes[stage.nodes[0]] = unsigned
    with pytest.raises(CallRefused) as caught:
        await stage.endorse(stage.propose())
    text = "failed to assemble transaction: no response carries an endorsement"
    assert refusal(caught) == (Code.ABORTED, text)


async def test_the_callers_deadline(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    await stage.define(BOTH)
    stage.reachable = stage.nodes[1:]
    stage.processes[stage.nodes[1]] = silent
    with pytest.raises(CallRefused) as caught, trio.fail_after(5):
        await stage.endorse(stage.propose())
    text = "endorsement timeout expired while collecting endorsements"
    assert refusal(caught) == (Code.DEADLINE_EXCEEDED, text)
    stage.processes[stage.nodes[0]] = silent
    with pytest.raises(CallRefused) as caught, trio.fail_after(5):
        await stage.endorse(stage.propose())
    text = "endorsement timeout expired while collecting first endorsement"
    assert refusal(caught) == (Code.DEADLINE_EXCEEDED, text)


async def test_the_limit_of_one_peer(stage: Stage, autojump_clock: trio.testing.MockClock) -> None:
    stage.limits = Limits(endorsement_s=3.0)
    stage.processes[stage.nodes[0]] = silent
    before = trio.current_time()
    with pytest.raises(CallRefused) as caught:
        await stage.endorse(stage.propose())
    assert trio.current_time() - before == pytest.approx(3.0)
    assert refusal(caught) == (Code.ABORTED, FIRST)
    said = "no answer within 3 s (peer.gateway.endorsementTimeout)"
    assert details(caught) == [(OWN, ORG1, said)]


async def test_no_peer_of_the_own_organisation_can_run_it(stage: Stage) -> None:
    await stage.define("OR('Org2MSP.peer')")
    stage.reachable = stage.nodes[1:]
    stage.installed.clear()
    payload = await stage.endorse(stage.propose())
    assert endorsers(payload) == [stage.scene.peer(1).creator]
    with pytest.raises(CallRefused) as caught:
        await stage.endorse(stage.propose(transient={"secret": b"1"}))
    assert refusal(caught) == (
        Code.FAILED_PRECONDITION,
        (
            "no endorsers found in the gateway's organization; retry specifying endorsing "
            "organization(s) to protect transient data"
        ),
    )


def to_collection(params: TransactionParams) -> None:
    assert params.simulator is not None
    params.simulator.set_private_data(CC, COLLECTION, "k", b"secret")


async def test_transient_data_go_only_to_members_of_the_collections(stage: Stage) -> None:
    """Writes to the collection of Org2 are for Org2 to endorse; Org1 may not know the values."""
    stage.reachable = stage.nodes[1:]
    for script in stage.scripts:
        script.does = to_collection
    payload = await stage.endorse(stage.propose())
    assert endorsers(payload) == [stage.scene.peer(1).creator]
    payload = await stage.endorse(stage.propose(transient={"secret": b"1"}))
    assert endorsers(payload) == [stage.scene.peer(1).creator]


async def test_an_endorser_that_may_not_know_transient_data(stage: Stage) -> None:
    """Org2's collection takes Org2; the chaincode beside it takes Org1, which is no member."""
    await stage.define("OR('Org1MSP.peer')")
    stage.reachable = stage.nodes[1:]

    def both(params: TransactionParams) -> None:
        to_collection(params)
        writing(["k"])(params)

    for script in stage.scripts:
        script.does = both
    payload = await stage.endorse(stage.propose())
    assert endorsers(payload) == [stage.scene.peer(index).creator for index in (0, 1)]
    with pytest.raises(CallRefused) as caught:
        await stage.endorse(stage.propose(transient={"secret": b"1"}))
    assert refusal(caught) == (
        Code.FAILED_PRECONDITION,
        (
            "requires endorsement from organisation(s) that are not in the distribution policy of "
            "the private data collection(s): [_implicit_org_Org2MSP]; retry specifying trusted "
            "endorsing organizations to protect transient data"
        ),
    )


@pytest.mark.parametrize(
    ("proposed", "text"),
    [
        (None, "the proposed transaction must contain a signed proposal"),
        (SignedProposalMessage(), "the proposed transaction must contain a signed proposal"),
        (SignedProposalMessage(proposal_bytes=b"\xff"), "error unmarshalling proposal"),
    ],
)
async def test_what_is_no_proposal(
    stage: Stage, proposed: SignedProposalMessage | None, text: str
) -> None:
    with pytest.raises(CallRefused) as caught:
        await stage.gateway.endorse(EndorseRequest(proposed_transaction=proposed), CALLER)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message.startswith(text)


# Which peers are asked, and in which order


A, B, C, D = (PeerNode(f"{name}MSP", name) for name in "ABCD")


def answering(*names: str) -> Callable[[PeerNode], Awaitable[ProposalResponse | Failure]]:
    """Return what peers say of which only some endorse."""

    async def say(node: PeerNode) -> ProposalResponse | Failure:
        await trio.lowlevel.checkpoint()
        if node.address in names:
            return ProposalResponse(payload=b"same", version=ord(node.address))
        return Failure(Code.UNAVAILABLE, "gone", is_final=False)

    return say


async def satisfied(descriptor: Descriptor, good: str, first: PeerNode | None = None) -> str:
    """Return who endorsed, and behind it who was asked and failed."""
    endorsing = Endorsing(answering(*good))
    if first is not None:
        assert await endorsing.add(first)
    found = await endorsing.satisfy(descriptor)
    who = "-" if found is None else "".join(sorted(chr(each.version) for each in found))
    failed = "".join(sorted(each.address for each in endorsing.failures))
    return f"{who} {failed}".strip()


async def test_a_peer_that_fails_is_replaced_by_another_of_its_group() -> None:
    descriptor = Descriptor({"G0": [A, B, C], "G1": [D]}, [{"G0": 2, "G1": 1}])
    assert await satisfied(descriptor, "BCD") == "BCD A"
    assert await satisfied(descriptor, "ABCD") == "ABD"
    assert await satisfied(descriptor, "AD") == "- BC"


async def test_the_next_layout_keeps_what_was_endorsed() -> None:
    descriptor = Descriptor(
        {"G0": [A], "G1": [B], "G2": [C]}, [{"G0": 1, "G1": 1}, {"G0": 1, "G2": 1}]
    )
    assert await satisfied(descriptor, "AC") == "AC B"


async def test_the_layout_of_the_first_endorser_is_preferred() -> None:
    descriptor = Descriptor({"G0": [A], "G1": [B]}, [{"G0": 1}, {"G1": 1}])
    assert await satisfied(descriptor, "AB", first=B) == "B"


async def test_one_peer_does_not_count_for_two_groups() -> None:
    descriptor = Descriptor({"G0": [A, B], "G1": [A]}, [{"G0": 1, "G1": 1}])
    assert await satisfied(descriptor, "AB") == "AB"
    assert await satisfied(Descriptor({"G0": [A], "G1": [A]}, [{"G0": 1, "G1": 1}]), "A") == "-"


async def test_all_that_are_needed_are_asked_at_once() -> None:
    waiting: list[str] = []
    both = trio.Event()

    async def say(node: PeerNode) -> ProposalResponse:
        waiting.append(node.address)
        if len(waiting) == 2:
            both.set()
        await both.wait()
        return ProposalResponse(payload=b"same")

    endorsing = Endorsing(say)
    with trio.fail_after(10):
        found = await endorsing.satisfy(Descriptor({"G0": [A, B]}, [{"G0": 2}]))
    assert found is not None
    assert sorted(waiting) == ["A", "B"]
