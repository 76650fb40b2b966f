"""The channel of a real network: its configurations, their updates, its blocks' signatures."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    Block,
    BlockMetadataIndex,
    Config,
    ConfigEnvelope,
    ConfigGroup,
    ConfigPolicy,
    ConfigUpdate,
    ConfigUpdateEnvelope,
    ConfigValue,
    Envelope,
    Metadata,
    Payload,
)
from peer.channel.bundle import Bundle
from peer.channel.configtx import genesis_config, next_config, validate
from peer.channel.genesis import (
    ApplicationMember,
    ChannelDescription,
    OrdererMember,
    OrdererSettings,
    channel_group,
)
from peer.channel.tree import elements, propose_update
from peer.channel.verification import verify_block, verify_signatures
from peer.errors import BlockRefused, ConfigUpdateRefused
from peer.ledger.blockfile import BlockFiles
from peer.ledger.blocks import header_hash, metadata_of
from peer.msp.version import MspVersion
from tests.shared_fixtures import shared_fixture

CHANNEL = "testchannel"
DIRECTORY = f"ledgersData/chains/chains/{CHANNEL}"
CONFIG_BLOCKS = range(5)


class Network(NamedTuple):
    """All blocks, and the configuration that each was made under."""

    blocks: list[Block]
    bundles: list[Bundle]


def envelope_of(block: Block) -> Envelope:
    assert block.data is not None
    return decode(Envelope, block.data.data[0])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Network:
    directory = tmp_path_factory.mktemp("ledger")
    with zipfile.ZipFile(shared_fixture("fabric-v20-ledger/ledgersData.zip")) as archive:
        (directory / "blockfile_000000").write_bytes(archive.read(f"{DIRECTORY}/blockfile_000000"))
    files = BlockFiles(Path(directory))
    blocks = [record.block for record in files.scan()]
    files.close()
    bundle = Bundle(CHANNEL, genesis_config(CHANNEL, envelope_of(blocks[0])))
    bundles = [bundle]
    for number, block in enumerate(blocks[1:], start=1):
        bundles.append(bundle)
        if number in CONFIG_BLOCKS:
            bundle = bundle.updated(validate(bundle, envelope_of(block)))
    return Network(blocks, bundles)


def test_the_genesis_configuration(real: Network) -> None:
    bundle = real.bundles[0]
    assert bundle.sequence == 1  # derived from a system channel by a creation update
    assert bundle.orderer is not None
    assert bundle.application is not None
    assert bundle.orderer.consensus_type == "solo"
    assert bundle.orderer.batch_timeout_s == 1.0
    assert bundle.orderer.max_message_count == 1
    assert bundle.orderer.absolute_max_bytes == 98 << 20
    assert bundle.orderer.preferred_max_bytes == 512 << 10
    assert [endpoint.address for endpoint in bundle.orderer_endpoints] == ["127.0.0.1:21500"]
    assert {
        name: organisation.msp_id for name, organisation in bundle.application.organisations.items()
    } == {f"org{number}": f"Org{number}MSP" for number in (1, 2, 3)}
    assert {msp.version for msp in bundle.msps.msps.values()} == {MspVersion.V1_4_3}
    assert "V1_3" in bundle.application.capabilities
    assert "V1_2" in bundle.application.capabilities
    assert "V2_0" not in bundle.application.capabilities


def test_every_configuration_is_what_its_update_makes_of_the_one_before(real: Network) -> None:
    last = real.bundles[-1]
    assert last.sequence == 5
    assert last.application is not None
    assert "V2_0" in last.application.capabilities
    assert [
        organisation.anchor_peers for organisation in last.application.organisations.values()
    ] == [(("127.0.0.1", port),) for port in (21504, 21509, 21519)]


@pytest.mark.parametrize("number", CONFIG_BLOCKS[1:])
def test_the_orderers_side_makes_the_recorded_configuration(real: Network, number: int) -> None:
    recorded = decode(
        ConfigEnvelope, decode(Payload, envelope_of(real.blocks[number]).payload).data
    )
    assert recorded.last_update is not None
    made = next_config(real.bundles[number], recorded.last_update)
    assert encode(made) == encode(recorded)


@pytest.mark.parametrize("number", CONFIG_BLOCKS[1:])
def test_configtxlator_and_propose_update_agree(real: Network, number: int) -> None:
    envelope = decode(
        ConfigEnvelope, decode(Payload, envelope_of(real.blocks[number]).payload).data
    )
    assert envelope.config is not None
    assert envelope.last_update is not None
    signed = decode(ConfigUpdateEnvelope, decode(Payload, envelope.last_update.payload).data)
    recorded = decode(ConfigUpdate, signed.config_update)
    made = propose_update(CHANNEL, real.bundles[number].config, envelope.config)
    assert encode(made) == encode(ConfigUpdate(CHANNEL, recorded.read_set, recorded.write_set))


def test_every_block_is_signed_and_follows_the_one_before(real: Network) -> None:
    verified = 0
    for before, block, bundle in zip(real.blocks, real.blocks[1:], real.bundles[1:], strict=False):
        assert before.header is not None
        assert block.header is not None
        verify_block(bundle, block, before.header.number + 1, header_hash(before.header))
        verified += 1
    assert verified == 19


def test_a_configuration_cannot_come_again_or_be_skipped(real: Network) -> None:
    with pytest.raises(ConfigUpdateRefused, match="its sequence is 2, but the current one is 2"):
        validate(real.bundles[2], envelope_of(real.blocks[1]))
    with pytest.raises(ConfigUpdateRefused, match="its sequence is 4, but the current one is 2"):
        validate(real.bundles[2], envelope_of(real.blocks[3]))


def with_config(block: Block, config: Config) -> Envelope:
    payload = decode(Payload, envelope_of(block).payload)
    envelope = decode(ConfigEnvelope, payload.data)
    payload.data = encode(ConfigEnvelope(config=config, last_update=envelope.last_update))
    return Envelope(payload=encode(payload))


@pytest.mark.parametrize("what", range(8))
def test_a_configuration_that_is_not_what_the_update_says_is_refused(
    real: Network, what: int
) -> None:
    genuine = real.bundles[2].config
    config = decode(Config, encode(genuine))
    assert config.channel_group is not None
    assert encode(validate(real.bundles[1], with_config(real.blocks[1], config))) == encode(genuine)
    found = list(elements(config.channel_group).values())
    found[what * len(found) // 8].version += 1
    with pytest.raises(ConfigUpdateRefused, match="is not what its update makes"):
        validate(real.bundles[1], with_config(real.blocks[1], config))


def test_signatures_that_a_policy_asks_for_cannot_be_left_out(real: Network) -> None:
    """Block 4 changes the application's capabilities: a majority of administrators must sign."""
    payload = decode(Payload, envelope_of(real.blocks[4]).payload)
    config = decode(ConfigEnvelope, payload.data)
    assert config.last_update is not None
    inner = decode(Payload, config.last_update.payload)
    signed = decode(ConfigUpdateEnvelope, inner.data)

    def made_with(*which: int) -> ConfigEnvelope:
        signatures = [signed.signatures[index] for index in which]
        data = encode(ConfigUpdateEnvelope(signed.config_update, signatures))
        envelope = Envelope(payload=encode(Payload(header=inner.header, data=data)))
        return next_config(real.bundles[4], envelope)

    assert len(signed.signatures) == 4
    assert isinstance(made_with(0, 1, 2, 3).config, Config)
    with pytest.raises(ConfigUpdateRefused, match=r"/Channel/Application/Admins is not satisfied"):
        made_with(0)
    with pytest.raises(ConfigUpdateRefused, match=r"/Channel/Application/Admins is not satisfied"):
        made_with(0, 0, 0, 0)


@pytest.mark.parametrize("number", [1, 4, 10, 19])
def test_a_block_that_was_changed_is_refused(real: Network, number: int) -> None:
    bundle = real.bundles[number]

    def copy() -> Block:
        return decode(Block, encode(real.blocks[number]))

    verify_signatures(bundle, copy())

    block = copy()
    assert block.header is not None
    block.header.previous_hash = bytes(32)
    with pytest.raises(BlockRefused, match="policy /Channel/Orderer/BlockValidation"):
        verify_signatures(bundle, block)

    block = copy()
    assert block.metadata is not None
    metadata = decode(Metadata, metadata_of(block)[BlockMetadataIndex.SIGNATURES])
    metadata.value += b"\x12\x00"
    block.metadata.metadata[BlockMetadataIndex.SIGNATURES] = encode(metadata)
    with pytest.raises(BlockRefused, match="policy /Channel/Orderer/BlockValidation"):
        verify_signatures(bundle, block)


def test_our_genesis_has_the_shape_of_theirs(real: Network) -> None:
    """Policies to the byte, values and groups, and who may change each of them."""
    bundle = real.bundles[0]
    theirs = bundle.config.channel_group
    assert theirs is not None
    assert bundle.orderer is not None
    assert bundle.application is not None
    ours = channel_group(
        ChannelDescription(
            channel_id=CHANNEL,
            capability="V2_0",
            members=[
                ApplicationMember(name=each.name, msp=each.msp)
                for each in bundle.application.organisations.values()
            ],
            orderer=OrdererSettings(
                batch_timeout="1s",
                max_message_count=1,
                absolute_max_bytes=98 << 20,
                preferred_max_bytes=512 << 10,
                members=[
                    OrdererMember(name=each.name, msp=each.msp, endpoints=each.endpoints)
                    for each in bundle.orderer.organisations.values()
                ],
            ),
        )
    )
    expected = contents(theirs)
    # A system channel knows consortiums and addresses for all; they came from there.
    del expected["[Value] /Channel/Consortium"]
    del expected["[Value] /Channel/OrdererAddresses"]
    found = contents(ours)
    differing = {
        key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)
    }
    assert differing == {"[Value] /Channel/Application/Capabilities"}  # theirs began with V1_3


def contents(tree: ConfigGroup) -> dict[str, object]:
    """Return what every element is, besides its version, and who may change it."""
    found: dict[str, object] = {}
    for key, element in elements(tree).items():
        match element:
            case ConfigValue():
                found[str(key)] = (element.mod_policy, element.value)
            case ConfigPolicy():
                found[str(key)] = (element.mod_policy, element.policy and encode(element.policy))
            case ConfigGroup():
                found[str(key)] = element.mod_policy
    return found
