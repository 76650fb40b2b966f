"""Blocks that hold a channel's configuration.

Room:      peer.channel   (imports peer.ledger.blocks; used by channels, scc and audit)
Loop:      none; building a configuration verifies certificates, a few ms
Lifetime:  none
Fabric:    protoutil/blockutils.go, core/scc/cscc/configure.go `validateConfigBlock` (release-2.5)
"""

from __future__ import annotations

from fabric_protos.codec import decode
from fabric_protos.common import Block, ChannelHeader, ConfigEnvelope, Envelope, Payload
from fabric_protos.errors import DecodeError
from peer.channel.bundle import Bundle
from peer.channel.configtx import genesis_config
from peer.errors import ChannelConfigRefused, ConfigUpdateRefused
from peer.ledger.blocks import envelopes_of, header_of


def first_bundle(block: Block) -> Bundle:
    """Return the configuration in the block that a channel is joined by.

    Raises:
        ChannelConfigRefused: this peer cannot work with it, or the channel is none for peers.
        ConfigUpdateRefused, BlockError: the block is not the first one of a channel.
    """
    bundle = bundle_of(channel_id_of(block), block)
    if bundle.application is None:
        raise ChannelConfigRefused("/Channel/Application", "it is no channel for peers")
    if header_of(block).number != 0:
        raise ConfigUpdateRefused("a channel is joined by its block 0")
    return bundle


def channel_id_of(block: Block) -> str:
    """Return the channel that a block's first envelope names.

    Raises:
        ConfigUpdateRefused: it cannot be read.
    """
    try:
        payload = decode(Payload, _first_envelope(block).payload)
        if payload.header is None:
            raise ConfigUpdateRefused("the block's envelope has no header")
        return decode(ChannelHeader, payload.header.channel_header).channel_id
    except DecodeError as exc:
        raise ConfigUpdateRefused(f"the block cannot be read: {exc}") from exc


def bundle_of(channel_id: str, block: Block) -> Bundle:
    """Return the configuration in a configuration block.

    Raises:
        ConfigUpdateRefused: there is none in it.
        ChannelConfigRefused: this peer cannot work with it.
    """
    try:
        return Bundle(channel_id, genesis_config(channel_id, _first_envelope(block)))
    except DecodeError as exc:
        raise ConfigUpdateRefused(f"the block cannot be read: {exc}") from exc


def stored_bundle(channel_id: str, config: bytes) -> Bundle:
    """Return the configuration that a ledger's state holds, a ``common.ConfigEnvelope``.

    Raises:
        ConfigUpdateRefused: there is none in it.
        ChannelConfigRefused: this peer cannot work with it.
    """
    try:
        found = decode(ConfigEnvelope, config).config
    except DecodeError as exc:
        raise ConfigUpdateRefused(f"the configuration cannot be read: {exc}") from exc
    if found is None or found.channel_group is None:
        raise ConfigUpdateRefused("there is no configuration in it")
    return Bundle(channel_id, found)


def _first_envelope(block: Block) -> Envelope:
    envelopes = envelopes_of(block)
    if not envelopes:
        raise ConfigUpdateRefused("the block holds no envelope")
    return decode(Envelope, envelopes[0])
