"""What real peers approved and committed, done again here and compared byte for byte."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fabric_protos.codec import decode
from fabric_protos.common import Block, Envelope, Payload
from fabric_protos.protos import (
    ChaincodeAction,
    ChaincodeActionPayload,
    ProposalResponsePayload,
    Transaction,
)
from fabric_protos.stream import (
    ChaincodeInvocationSpec,
    ChaincodeProposalPayload,
    ChannelHeader,
    SerializedIdentity,
)
from peer.chaincode.support import EndorsementInfo
from peer.chaincode.transactions import TransactionParams
from peer.channel.channel import Channel
from peer.channel.configblock import bundle_of
from peer.ledger import open_ledger
from peer.ledger.api import ValidationCode
from peer.ledger.blockfile import BlockFiles
from peer.ledger.blocks import envelopes_of, flags_of
from peer.lifecycle import state
from peer.lifecycle.definitions import Definitions
from peer.scc.lifecycle import Lifecycle
from peer.scc.runner import SystemCall
from tests.shared_fixtures import shared_fixture
from tests.unit.ledger.test_real_ledger import policy, real_private_data

CHANNEL = "testchannel"
LAST_CONFIG = 4


class Recorded(NamedTuple):
    """A call of _lifecycle as it was committed."""

    args: list[bytes]
    msp_ids: list[str]
    results: bytes
    payload: bytes


class Everybody:
    """Proposals are not recorded with their signatures, so access cannot be checked again."""

    def check(self, resource: str, channel_id: str, signed: object) -> None:
        pass


class Packages:
    """All packages are here."""

    def is_installed(self, ccid: str) -> bool:
        return True

    def deployment(self, ccid: str) -> None:
        return None


class Somebody:
    """A peer of the organisation that the recorded ledger belongs to."""

    msp_id = "Org2MSP"
    creator = b""


@pytest.fixture(scope="session")
def real_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger directory of a real peer: 20 blocks of the channel ``testchannel``."""
    directory = tmp_path_factory.mktemp("fabric")
    with zipfile.ZipFile(shared_fixture("fabric-v20-ledger/ledgersData.zip")) as archive:
        archive.extractall(directory)
    return directory / "ledgersData"


@pytest.fixture(scope="session")
def real_blocks(real_ledger: Path) -> list[Block]:
    files = BlockFiles(real_ledger / "chains" / "chains" / CHANNEL)
    return [record.block for record in files.scan()]


def recorded_calls(block: Block) -> list[Recorded]:
    found = []
    for data in envelopes_of(block):
        payload = decode(Payload, decode(Envelope, data).payload)
        assert payload.header is not None
        if ChannelHeader.decode(payload.header.channel_header).type != 3:
            continue
        [action] = decode(Transaction, payload.data).actions
        content = decode(ChaincodeActionPayload, action.payload)
        proposal = ChaincodeProposalPayload.decode(content.chaincode_proposal_payload)
        spec = ChaincodeInvocationSpec.decode(proposal.input).chaincode_spec
        assert spec is not None
        assert spec.chaincode_id is not None
        assert spec.input is not None
        if spec.chaincode_id.name != "_lifecycle":
            continue
        assert content.action is not None
        endorsed = content.action
        response = decode(ProposalResponsePayload, endorsed.proposal_response_payload)
        result = decode(ChaincodeAction, response.extension)
        assert result.response is not None
        found.append(
            Recorded(
                [bytes(arg) for arg in spec.input.args],
                [SerializedIdentity.decode(each.endorser).mspid for each in endorsed.endorsements],
                result.results,
                result.response.payload,
            )
        )
    return found


async def test_every_approval_and_commit_gives_the_same_bytes(
    tmp_path: Path, real_ledger: Path, real_blocks: list[Block]
) -> None:
    anything: Any = Everybody()
    nothing: Any = None
    private = real_private_data(real_ledger)
    compared = []
    async with open_ledger(tmp_path, CHANNEL, policies=policy) as ledger:
        channel = Channel(ledger, bundle_of(CHANNEL, real_blocks[LAST_CONFIG]))
        for number, block in enumerate(real_blocks):
            for recorded in recorded_calls(block):
                for msp_id in recorded.msp_ids:
                    lifecycle = Lifecycle(
                        access=anything,
                        channel=lambda channel_id: channel,
                        channels=list,
                        definitions=nothing,
                        packages=nothing,
                        msp_id=msp_id,
                    )
                    simulator = ledger.new_tx_simulator("tx")
                    params = TransactionParams(
                        channel_id=CHANNEL, tx_id="tx", namespace="", simulator=simulator
                    )
                    call = SystemCall(params=params, args=recorded.args)
                    response = await lifecycle.invoke(call)
                    assert (response.status, response.payload) == (200, recorded.payload)
                    assert simulator.get_tx_simulation_results().public == recorded.results
                    compared.append(recorded.args[0].decode())
            held = {tx: each for (at, tx), each in private.items() if at == number}
            await ledger.commit(block, [ValidationCode(flag) for flag in flags_of(block)], held)
    assert compared.count("ApproveChaincodeDefinitionForMyOrg") == 9
    assert compared.count("CommitChaincodeDefinition") == 9


async def test_the_definitions_at_the_end(
    tmp_path: Path, real_ledger: Path, real_blocks: list[Block]
) -> None:
    identity: Any = Somebody()
    private = real_private_data(real_ledger)
    async with open_ledger(tmp_path, CHANNEL, policies=policy) as ledger:
        for number, block in enumerate(real_blocks):
            held = {tx: each for (at, tx), each in private.items() if at == number}
            await ledger.commit(block, [ValidationCode(flag) for flag in flags_of(block)], held)
        channel = Channel(ledger, bundle_of(CHANNEL, real_blocks[LAST_CONFIG]))
        definitions = Definitions(
            channel=lambda channel_id: channel, packages=Packages(), identity=identity
        )
        reader = ledger.new_query_executor()
        names = await state.defined_names(reader)
        reader.done()
        simulator = ledger.new_tx_simulator("tx")
        found = {name: definitions.endorsement_info(CHANNEL, name, simulator) for name in names}
        simulator.done()
        names_of = definitions.collection_names(CHANNEL)
        sequences = {name: definitions.deployed(CHANNEL, name) for name in names}
    marbles = "28da5402544f9dfdb7cae8c49259e58612bea23061f3d453ef7aa869c342556a"
    private_marbles = "26858519a97a8f5ac925853a76f172db9f153e99872ec085217e3767d6cfc9c9"
    assert found == {
        "marbles": EndorsementInfo("0.0", f"marbles:{marbles}", False),
        "marblesp": EndorsementInfo("1.1", f"marbles-private-20:{private_marbles}", False),
    }
    assert {name: each and each.sequence for name, each in sequences.items()} == {
        "marbles": 1,
        "marblesp": 2,
    }
    assert names_of("marbles") == frozenset()
    assert names_of("marblesp") == {"collectionMarbles", "collectionMarblePrivateDetails"}
