"""Two organisations, a peer each, one orderer: the whole signed path, and what breaks it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import Envelope
from fabric_protos.stream import ChaincodeInput
from peer.client.definitions import WantedDefinition, approve, commit
from peer.directories import LEDGERS
from peer.endorser.proposal import prepare_args, prepare_proposal
from peer.endorser.transaction import signed_transaction
from peer.errors import BroadcastRefused, ProposalRefused
from peer.ledger.api import ValidationCode as Code
from peer.ledger.api import Version
from peer.ledger.blocks import flags_of, header_of
from peer.ledger.offline import StateRow, public_state
from peer.msp.directory import load_signing_identity
from peer.msp.identity import SigningIdentity
from peer.ordering.writer import BlockWriter
from tests.integration.network.conftest import kept
from tests.integration.network.scene import ASSETS, CHANNEL, Scene, identity_of, open_scene
from tests.unit.channel.networks import expired_user
from tests.unit.validation.forging import Forged

EXAMPLE = Path(__file__).parents[3] / "examples" / "asset_transfer"
COUNTER = """
import shim


class Counter(shim.Chaincode):
    async def invoke(self, stub):
        function, parameters = stub.get_function_and_parameters()
        if function == "put":
            await stub.put_state(*parameters)
        elif function == "copy":
            await stub.put_state(parameters[1], await stub.get_state(parameters[0]))
        elif function == "count":
            async with stub.get_state_by_range(*parameters) as records:
                found = [record.key async for record in records]
            await stub.put_state("count", str(len(found)))


shim.start(Counter())
"""
"""What it writes follows from a key that it read, or from a range."""


def counter(directory: Path) -> Path:
    """Return a directory with that chaincode."""
    code = directory / "counter"
    code.mkdir()
    (code / "chaincode.py").write_text(COUNTER)
    return code


@asynccontextmanager
async def opened(directory: Path, code: Path) -> AsyncIterator[Scene]:
    """Open both peers on a new network, with a chaincode installed and defined."""
    async with open_scene(
        directory,
        configure=lambda index, config: kept(config, directory / f"data{index}", f"peer{index}"),
    ) as scene:
        await deploy(scene, code)
        yield scene


async def deploy(scene: Scene, code: Path) -> None:
    """Install on both peers, approve for both organisations, commit for all."""
    [ccid] = {(await peer.packages.install(code, ASSETS)).ccid for peer in scene.peers}
    wanted = WantedDefinition(name=ASSETS, version="1.0", package_id=ccid)
    for index, peer in enumerate(scene.peers):
        channel = peer.joined.get(CHANNEL).channel
        admin = scene.client(index, 0, [index])
        await approve(admin, channel, wanted, 1)
    await scene.level()
    admin = scene.client(0, 0)
    await commit(admin, scene.peers[0].joined.get(CHANNEL).channel, wanted, 1)
    await scene.level()


def states(directory: Path) -> list[list[StateRow]]:
    """Return everything that both peers have in common, definitions included."""
    places = [directory / f"data{index}" / LEDGERS for index in (0, 1)]
    return [list(public_state(place, CHANNEL)) for place in places]


def member(scene: Scene, index: int) -> SigningIdentity:
    """Return a client of an organisation."""
    return identity_of(scene.made.organisations[index], 1)


async def transaction(scene: Scene, *args: str, endorsers: tuple[int, ...] = (0, 1)) -> bytes:
    """Return the envelope of a call that these peers endorsed."""
    signer = member(scene, 0)
    payload = ChaincodeInput(args=prepare_args(args))
    signed = prepare_proposal(signer, CHANNEL, ASSETS, payload, {}).signed
    answers = [await scene.peers[each].endorser.process_proposal(signed) for each in endorsers]
    assert len({answer.payload for answer in answers}) == 1
    return signed_transaction(signed, answers, signer)


async def verdicts(scene: Scene, envelope: bytes) -> list[Code]:
    """Order a transaction and return what both peers make of its block."""
    number = scene.peers[0].ledger(CHANNEL).height
    await scene.orderer.broadcast(envelope)
    return await flags(scene, number)


async def flags(scene: Scene, number: int) -> list[Code]:
    """Return the verdicts in a block once both peers have it."""
    found = []
    for peer in scene.peers:
        async with aclosing(peer.ledger(CHANNEL).blocks(number)) as blocks:
            found.append([Code(flag) for flag in flags_of(await anext(blocks))])
    assert found[0] == found[1]
    return found[0]


async def test_both_endorse_and_commit_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path, EXAMPLE) as scene:
        result = await scene.invoke("put", "key", "value")
        assert (result.status, result.validation_code) == (200, Code.VALID)
        await scene.check_agreement()
        for index in (0, 1):
            assert (await scene.query(index, "get", "key")).payload == b"value"


async def test_what_is_refused_leaves_nothing_but_its_id(tmp_path: Path) -> None:
    async with opened(tmp_path, counter(tmp_path)) as scene:
        await scene.invoke("put", "a", "1")
        lonely = await transaction(scene, "put", "a", "lonely", endorsers=(0,))
        stale = await transaction(scene, "copy", "a", "stale")
        phantom = await transaction(scene, "count", "b", "c")
        good = await transaction(scene, "put", "bb", "2")
        await scene.invoke("put", "a", "3")
        assert await verdicts(scene, good) == [Code.VALID]
        before = states(tmp_path)
        for envelope, code in (
            (lonely, Code.ENDORSEMENT_POLICY_FAILURE),
            (stale, Code.MVCC_READ_CONFLICT),
            (phantom, Code.PHANTOM_READ_CONFLICT),
            (good, Code.DUPLICATE_TXID),
            (lonely, Code.DUPLICATE_TXID),
        ):
            assert await verdicts(scene, envelope) == [code]
            assert states(tmp_path) == before
        await scene.check_agreement()


async def test_who_is_not_who_he_says_is_not_let_in(tmp_path: Path) -> None:
    """Nor whose certificate has ended, although no block would tell."""
    async with opened(tmp_path, counter(tmp_path)) as scene:
        before, height = states(tmp_path), scene.peers[0].ledger(CHANNEL).height
        ended = expired_user(scene.made)
        for signer, signature, refusal, status in (
            (ended, ended, "^proposal client identity expired$", "BAD_REQUEST"),
            (member(scene, 0), member(scene, 1), r"creator org \[Org1MSP\]$", "FORBIDDEN"),
        ):
            payload = ChaincodeInput(args=prepare_args(["put", "a", "1"]))
            proposal = prepare_proposal(signer, CHANNEL, ASSETS, payload, {}).signed
            proposal.signature = signature.sign(proposal.proposal_bytes)
            for peer in scene.peers:
                with pytest.raises(ProposalRefused, match=refusal):
                    await peer.endorser.process_proposal(proposal)
            forged = Forged(signer=signer, channel_id=CHANNEL, name=ASSETS).payload()
            envelope = Envelope(payload=forged, signature=signature.sign(forged))
            with pytest.raises(BroadcastRefused, match=f"status {status}"):
                await scene.orderer.broadcast(encode(envelope))
        assert states(tmp_path) == before
        assert {peer.ledger(CHANNEL).height for peer in scene.peers} == {height}


async def test_a_block_of_an_orderer_that_lets_everything_pass(tmp_path: Path) -> None:
    async with opened(tmp_path, counter(tmp_path)) as scene:
        await scene.invoke("put", "a", "1")
        stale = await transaction(scene, "copy", "a", "stale")
        phantom = await transaction(scene, "count", "", "")
        lonely = await transaction(scene, "put", "lonely", "x", endorsers=(1,))
        good = await transaction(scene, "put", "a", "2")
        late = decode(Envelope, await transaction(scene, "put", "late", "x"))
        late.signature = member(scene, 1).sign(late.payload)
        before = states(tmp_path)
        made = scene.made.orderer
        orderer = load_signing_identity(made.nodes[0].msp, made.msp_id)
        last = await scene.chain.last_block()
        writer = BlockWriter(orderer, last)
        block = writer.next_block([encode(late), lonely, good, good, stale, phantom])
        await scene.chain.append(block)
        assert await flags(scene, header_of(block).number) == [
            Code.BAD_CREATOR_SIGNATURE,
            Code.ENDORSEMENT_POLICY_FAILURE,
            Code.VALID,
            Code.DUPLICATE_TXID,
            Code.MVCC_READ_CONFLICT,
            Code.PHANTOM_READ_CONFLICT,
        ]
        version = Version(header_of(block).number, 2)
        for old, new in zip(before, states(tmp_path), strict=True):
            changed = StateRow(ASSETS, b"a", b"2", b"", version)
            assert new == [changed if row[:2] == changed[:2] else row for row in old]
        await scene.check_agreement()
