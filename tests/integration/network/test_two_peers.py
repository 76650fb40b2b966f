"""Two organisations, a peer each, one orderer: the whole signed path, and what breaks it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import Envelope
from peer.client.definitions import WantedDefinition, approve, commit
from peer.errors import BroadcastRefused
from peer.ledger.api import ValidationCode
from peer.ledger.blocks import flags_of
from tests.integration.network.scene import ASSETS, CHANNEL, Scene, identity_of, open_scene

EXAMPLE = Path(__file__).parents[3] / "examples" / "asset_transfer"


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Scene]:
    """Open both peers on a new network, with the example installed and defined."""
    async with open_scene(directory) as scene:
        await deploy(scene)
        yield scene


async def deploy(scene: Scene) -> None:
    """Install on both peers, approve for both organisations, commit for all."""
    [ccid] = {(await peer.packages.install(EXAMPLE, ASSETS)).ccid for peer in scene.peers}
    wanted = WantedDefinition(name=ASSETS, version="1.0", package_id=ccid)
    for index, peer in enumerate(scene.peers):
        channel = peer.joined.get(CHANNEL).channel
        admin = scene.client(index, 0, [index])
        await approve(admin, channel, wanted, 1)
        await scene.level()
    admin = scene.client(0, 0)
    await commit(admin, scene.peers[0].joined.get(CHANNEL).channel, wanted, 1)
    await scene.level()


async def test_both_endorse_and_commit_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        result = await scene.invoke("put", "key", "value")
        assert (result.status, result.validation_code) == (200, ValidationCode.VALID)
        await scene.check_agreement()
        for index in (0, 1):
            assert (await scene.query(index, "get", "key")).payload == b"value"


async def test_one_endorsement_is_too_few(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:
        result = await scene.invoke("put", "key", "value", endorsers=[0])
        assert result.validation_code is ValidationCode.ENDORSEMENT_POLICY_FAILURE
        await scene.check_agreement()
        for index in (0, 1):
            assert (await scene.query(index, "get", "key")).payload == b""


async def test_stale_reads_and_phantoms_and_repeated_ids_do_not_touch_the_state(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as scene:
        await scene.invoke("InitLedger")
        transfer = [await scene.endorsed("TransferAsset", "asset1", owner) for owner in ("A", "B")]
        await scene.order(*(envelope for _, envelope in transfer))
        codes = [await scene.code(proposal) for proposal, _ in transfer]
        assert codes == [ValidationCode.VALID, ValidationCode.MVCC_READ_CONFLICT]
        again = await scene.endorsed("put", "key", "1")
        await scene.order(again[1], again[1])
        assert await scene.code(again[0]) is ValidationCode.VALID
        await scene.check_agreement()
        assert b'"Owner":"A"' in (await scene.query(1, "ReadAsset", "asset1")).payload
        last = scene.peers[0].ledger(CHANNEL)
        block = await last.block_by_number(last.height - 1)
        assert block is not None
        assert flags_of(block) == bytes([ValidationCode.VALID, ValidationCode.DUPLICATE_TXID])


async def test_a_broken_signature_is_refused_by_the_orderer_and_by_the_peers(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as scene:
        proposal, data = await scene.endorsed("put", "key", "value")
        good = decode(Envelope, data)
        stranger = identity_of(scene.made.organisations[1], 1)
        forged = Envelope(payload=good.payload, signature=stranger.sign(good.payload))
        with pytest.raises(BroadcastRefused, match="status FORBIDDEN"):
            await scene.order(encode(forged))
        assert not scene.peers[0].ledger(CHANNEL).has_transaction(proposal.tx_id)
