"""Deployments from the proposal on: lscc writes, and Init runs, in one simulation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.protos import (
    ChaincodeAction,
    ChaincodeData,
    ChaincodeDeploymentSpec,
    ChaincodeEvent,
    ProposalResponse,
    ProposalResponsePayload,
)
from fabric_protos.protos import ChaincodeInput as ChaincodeInputMessage
from fabric_protos.stream import ChaincodeInput, ChaincodeMessage, PutState
from peer.chaincode.support import ChaincodeSupport
from peer.endorser.endorser import Endorser
from peer.endorser.proposal import prepare_proposal
from peer.endorser.transaction import signed_transaction
from peer.ledger.api import SimulationResults
from peer.msp.directory import load_local
from peer.msp.identity import SigningIdentity
from peer.scc.runner import serve
from tests.fakes.runtime import FakeRuntime
from tests.fakes.stream import FakeChaincode, Type
from tests.unit.chaincode.house import SETTINGS, House, answering, open_house
from tests.unit.scc.channels import CHANNEL, Called, Site
from tests.unit.scc.test_lscc import install, spec


async def do(chaincode: FakeChaincode, work: ChaincodeMessage) -> None:
    """Write what the first argument says under the kind of the call; or do what it asks for."""
    where = {"tx": work.txid, "channel": work.channel_id}
    [word, *_] = ChaincodeInput.decode(work.payload).args
    if word == b"break":
        chaincode.send(Type.ERROR, b"no luck", **where)
    elif word == b"complain":
        chaincode.complete(status=400, message="I do not like it", **where)
    else:
        key = "Init" if work.type == Type.INIT else "Invoke"
        put = PutState(key=key, value=word).encode()
        assert (await chaincode.ask(Type.PUT_STATE, put, **where)).type == Type.RESPONSE
        chaincode.complete(payload=word, **where)


class Bench:
    """An endorser on a channel of the old lifecycle, whose chaincodes are played."""

    def __init__(self, site: Site, house: House) -> None:
        self.site = site
        self.house = house
        self.chaincode = ChaincodeSupport(
            registry=house.registry,
            launcher=house.launcher,
            definitions=site.definitions,
            ledgers=lambda channel_id: site.channel.ledger,
            settings=SETTINGS,
        )
        own = site.network.organisations[0]
        self.endorser = Endorser(
            chaincode=self.chaincode,
            channel=site.find,
            definitions=site.definitions,
            collections=site.definitions,
            local=load_local(own.nodes[0].msp, own.msp_id).msp,
            signer=site.identity,
        )

    async def call(
        self, name: str, *args: bytes, by: SigningIdentity | None = None, commits: bool = True
    ) -> ProposalResponse:
        signer = by or self.site.admin
        proposal = prepare_proposal(signer, CHANNEL, name, ChaincodeInput(args=list(args)), {})
        answer = await self.endorser.process_proposal(proposal.signed)
        if commits and answer.endorsement is not None:
            envelope = signed_transaction(proposal.signed, [answer], signer)
            await self.site.commit(envelope, {})
        return answer

    async def deploy(
        self, *args: bytes, version: str = "1.0", function: bytes = b"deploy"
    ) -> ProposalResponse:
        deployment = decode(ChaincodeDeploymentSpec, spec(version, code=b""))
        assert deployment.chaincode_spec is not None
        deployment.chaincode_spec.input = ChaincodeInputMessage(args=list(args))
        return await self.call("lscc", function, CHANNEL.encode(), encode(deployment))


def action_of(answer: ProposalResponse) -> ChaincodeAction:
    payload = decode(ProposalResponsePayload, answer.payload)
    return decode(ChaincodeAction, payload.extension)


def rwset(answer: ProposalResponse) -> Called:
    results = SimulationResults(action_of(answer).results)
    return Called(None, None, results)  # type: ignore[arg-type]  # only its sets are asked for


def message(answer: ProposalResponse) -> str:
    assert answer.response is not None
    assert answer.response.status == 500
    assert answer.endorsement is None
    return answer.response.message


@pytest.fixture
async def bench(legacy_site: Site) -> AsyncIterator[Bench]:
    for version in ("1.0", "2.0"):
        await install(legacy_site, spec(version))
    async with open_house(FakeRuntime()) as house:
        made = Bench(legacy_site, house)
        for version in ("1.0", "2.0"):
            house.play(f"cc:{version}", answering(f"cc:{version}", do))
        lscc = legacy_site.lscc
        await house.instances.start(made.chaincode.run_in_process, "lscc", partial(serve, lscc))
        yield made


async def test_init_runs_in_the_simulation_of_the_deployment(bench: Bench) -> None:
    answer = await bench.deploy(b"first")
    assert answer.response is not None
    data = decode(ChaincodeData, answer.response.payload)
    assert (data.name, data.version) == ("cc", "1.0")
    action = action_of(answer)
    assert action.chaincode_id is not None
    assert (action.chaincode_id.name, action.chaincode_id.version) == ("lscc", "syscc")
    called = rwset(answer)
    assert called.reads == {"cc": {}, "lscc": {"cc": False}}
    assert called.writes == {"cc": {"Init": b"first"}, "lscc": {"cc": answer.response.payload}}


async def test_the_whole_old_lifecycle(bench: Bench) -> None:
    await bench.deploy(b"first")
    answer = await bench.call("cc", b"second", by=bench.site.user)
    called, action = rwset(answer), action_of(answer)
    assert called.reads == {"cc": {}, "lscc": {"cc": True}}
    assert called.writes == {"cc": {"Invoke": b"second"}}
    assert action.chaincode_id is not None
    assert action.chaincode_id.version == "1.0"
    answer = await bench.deploy(b"third", version="2.0", function=b"upgrade")
    event = decode(ChaincodeEvent, action_of(answer).events)
    assert (event.chaincode_id, event.event_name) == ("lscc", "upgrade")
    assert rwset(answer).writes["cc"] == {"Init": b"third"}
    answer = await bench.call("cc", b"fourth", by=bench.site.user)
    action = action_of(answer)
    assert action.chaincode_id is not None
    assert action.chaincode_id.version == "2.0"
    assert [instance.spec.ccid for instance in bench.house.runtime.started] == ["cc:1.0", "cc:2.0"]


async def test_an_error_of_init_fails_the_deployment(bench: Bench) -> None:
    answer = await bench.deploy(b"break")
    assert message(answer).startswith("error in simulation: ")
    assert message(answer).endswith("transaction returned with failure: no luck")
    assert answer.payload == b""


async def test_a_response_of_init_does_not(bench: Bench) -> None:
    answer = await bench.deploy(b"complain")
    assert answer.endorsement is not None
    assert rwset(answer).writes == {"lscc": {"cc": rwset(answer).writes["lscc"]["cc"]}}


async def test_without_a_package_nothing_is_launched(bench: Bench) -> None:
    answer = await bench.deploy(b"x", version="3.0")
    assert answer.response is not None
    assert answer.response.message == "cannot get package for chaincode (cc:3.0)"
    assert bench.house.runtime.started == []


async def test_code_does_not_travel_with_a_deployment(bench: Bench) -> None:
    answer = await bench.call("lscc", b"deploy", CHANNEL.encode(), spec())
    assert message(answer).endswith("lscc upgrade/deploy should not include a code packages")
