"""Configuration updates: from signed update to new configuration, and the same again at commit.

Room:      peer.channel   (imports fabric_protos, peer.errors, peer.msp;
           used by configblock, ordering, validation and audit)
Loop:      none; verifies signatures, about 0.1 ms each
Lifetime:  none
Fabric:    common/configtx/validator.go, common/configtx/update.go (release-2.5)
"""

from __future__ import annotations

from typing import TypeVar

import betterproto2

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    ChannelHeader,
    Config,
    ConfigEnvelope,
    ConfigSignature,
    ConfigUpdate,
    ConfigUpdateEnvelope,
    Envelope,
    HeaderType,
    Payload,
    SignatureHeader,
)
from fabric_protos.errors import DecodeError
from peer.channel.bundle import Bundle
from peer.channel.tree import Element, Key, apply_update, is_mod_policy
from peer.errors import ConfigUpdateRefused, PolicyError
from peer.msp.policies import SignedData

M = TypeVar("M", bound=betterproto2.Message)


def next_config(bundle: Bundle, envelope: Envelope) -> ConfigEnvelope:
    """Return the configuration that a CONFIG_UPDATE envelope makes of the current one.

    The envelope's own signature is the orderer's to check; those inside decide here.

    Raises:
        ConfigUpdateRefused: it is no update of this channel, is based on something else than the
            current configuration, or lacks signatures.
    """
    payload = _payload(bundle.channel_id, envelope, HeaderType.CONFIG_UPDATE)
    signed = _decoded(ConfigUpdateEnvelope, payload.data, "the signed update")
    update = _decoded(ConfigUpdate, signed.config_update, "the update")
    if update.channel_id != bundle.channel_id:
        raise ConfigUpdateRefused(
            f"an update of channel {update.channel_id!r}, but this is {bundle.channel_id!r}"
        )
    if update.read_set is None or update.write_set is None:
        raise ConfigUpdateRefused("an update must have a read set and a write set")
    current = bundle.config.channel_group
    assert current is not None
    signatures = [_signed_data(each, signed.config_update) for each in signed.signatures]

    def authorise(key: Key, element: Element) -> None:
        path = _policy_path(key, element)
        try:
            bundle.policy(path).evaluate(signatures)
        except PolicyError as exc:
            raise ConfigUpdateRefused(f"{key}: policy {path} is not satisfied: {exc}") from exc

    group = apply_update(current, update.read_set, update.write_set, authorise)
    config = Config(sequence=bundle.sequence + 1, channel_group=group)
    return ConfigEnvelope(config=config, last_update=envelope)


def validate(bundle: Bundle, envelope: Envelope) -> Config:
    """Return the configuration of a CONFIG envelope, after making it again from its update.

    Whether it can be worked with is then `Bundle.updated`'s to say.

    Raises:
        ConfigUpdateRefused: its update is refused, or makes something else of the current
            configuration.
    """
    payload = _payload(bundle.channel_id, envelope, HeaderType.CONFIG)
    found = _decoded(ConfigEnvelope, payload.data, "the configuration")
    if found.config is None or found.config.channel_group is None or found.last_update is None:
        raise ConfigUpdateRefused("it lacks the configuration, or the update that made it")
    if found.config.sequence != bundle.sequence + 1:
        raise ConfigUpdateRefused(
            f"its sequence is {found.config.sequence}, but the current one is {bundle.sequence}"
        )
    expected = next_config(bundle, found.last_update).config
    assert expected is not None
    # Encoding is canonical, so equal bytes are equal trees, unknown fields included.
    if encode(found.config) != encode(expected):
        raise ConfigUpdateRefused("it is not what its update makes of the current configuration")
    return found.config


def genesis_config(channel_id: str, envelope: Envelope) -> Config:
    """Return the configuration of a block to begin with, which nothing before it vouches for.

    Raises:
        ConfigUpdateRefused: no CONFIG envelope of this channel, or one without configuration.
    """
    payload = _payload(channel_id, envelope, HeaderType.CONFIG)
    found = _decoded(ConfigEnvelope, payload.data, "the configuration").config
    if found is None or found.channel_group is None:
        raise ConfigUpdateRefused("there is no configuration in it")
    return found


def _policy_path(key: Key, element: Element) -> str:
    """Return the absolute path of the policy that decides on changes of an existing element."""
    if not is_mod_policy(element.mod_policy):
        raise ConfigUpdateRefused(f"{key}: nobody may change it, as it has no mod_policy")
    if element.mod_policy.startswith("/"):
        return element.mod_policy
    return "/".join(("", *key.group, element.mod_policy))


def _signed_data(signature: ConfigSignature, update: bytes) -> SignedData:
    header = _decoded(SignatureHeader, signature.signature_header, "a signature's header")
    return SignedData(
        data=signature.signature_header + update,
        identity=header.creator,
        signature=signature.signature,
    )


def _payload(channel_id: str, envelope: Envelope, kind: HeaderType) -> Payload:
    payload = _decoded(Payload, envelope.payload, "the payload")
    if payload.header is None:
        raise ConfigUpdateRefused("the payload has no header")
    header = _decoded(ChannelHeader, payload.header.channel_header, "the channel header")
    if header.type != kind:
        raise ConfigUpdateRefused(f"an envelope of type {header.type}, not {kind.name}")
    if header.channel_id != channel_id:
        raise ConfigUpdateRefused(
            f"an envelope of channel {header.channel_id!r}, but this is {channel_id!r}"
        )
    return payload


def _decoded(cls: type[M], data: bytes, what: str) -> M:
    try:
        return decode(cls, data)
    except DecodeError as exc:
        raise ConfigUpdateRefused(f"{what} cannot be read: {exc}") from exc
