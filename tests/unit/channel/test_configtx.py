"""Configuration updates with real signatures, on the orderer's side and at commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    Config,
    ConfigEnvelope,
    ConfigGroup,
    ConfigSignature,
    ConfigUpdate,
    ConfigUpdateEnvelope,
    Envelope,
    HeaderType,
    Payload,
    SignatureHeader,
)
from fabric_protos.orderer import BatchTimeout
from fabric_protos.protos import AnchorPeer, AnchorPeers
from peer.channel.bundle import Bundle
from peer.channel.configtx import genesis_config, next_config, validate
from peer.channel.tree import propose_update
from peer.errors import ConfigUpdateRefused
from peer.msp.identity import SigningIdentity
from tests.unit.channel.networks import Scene, config_transaction, envelope, signed_update
from tests.unit.channel.trees import group


def update(scene: Scene, change: Callable[[ConfigGroup], None]) -> ConfigUpdate:
    old, new = scene.config(), scene.config()
    assert new.channel_group is not None
    change(new.channel_group)
    return propose_update(scene.channel_id, old, new)


def new_anchor(root: ConfigGroup) -> None:
    value = AnchorPeers(anchor_peers=[AnchorPeer(host="elsewhere", port=1)])
    root.groups["Application"].groups["Org1"].values["AnchorPeers"].value = encode(value)


def new_timeout(root: ConfigGroup) -> None:
    root.groups["Orderer"].values["BatchTimeout"].value = encode(BatchTimeout(timeout="1s"))


def without_org3(root: ConfigGroup) -> None:
    del root.groups["Application"].groups["Org3"]


def absolute(root: ConfigGroup) -> None:
    root.groups["Application"].values["Capabilities"].mod_policy = "/Channel/Orderer/Admins"


def refusal(bundle: Bundle, made: Envelope) -> str:
    with pytest.raises(ConfigUpdateRefused) as caught:
        next_config(bundle, made)
    return str(caught.value)


# Who may change what


def test_an_organisations_administrator_changes_what_is_its_own(scene: Scene) -> None:
    made = next_config(scene.bundle, signed_update(update(scene, new_anchor), [scene.admin(0)]))
    assert made.config is not None
    assert made.config.sequence == 1
    after = scene.bundle.updated(made.config)
    assert after.application is not None
    assert after.application.organisations["Org1"].anchor_peers == (("elsewhere", 1),)


@pytest.mark.parametrize(
    ("change", "by", "policy"),
    [
        (new_anchor, "other admin", "/Channel/Application/Org1/Admins"),
        (new_anchor, "user", "/Channel/Application/Org1/Admins"),
        (new_anchor, "nobody", "/Channel/Application/Org1/Admins"),
        (new_timeout, "all admins", "/Channel/Orderer/Admins"),
        (without_org3, "admin", "/Channel/Application/Admins"),
        (without_org3, "admin twice", "/Channel/Application/Admins"),
        (without_org3, "orderer admin", "/Channel/Application/Admins"),
    ],
)
def test_signatures_are_missing(
    scene: Scene, change: Callable[[ConfigGroup], None], by: str, policy: str
) -> None:
    signers: dict[str, Sequence[SigningIdentity]] = {
        "nobody": [],
        "user": [scene.user(0)],
        "admin": [scene.admin(0)],
        "admin twice": [scene.admin(0), scene.admin(0)],
        "other admin": [scene.admin(1)],
        "all admins": [scene.admin(index) for index in range(3)],
        "orderer admin": [scene.orderer_admin],
    }
    text = refusal(scene.bundle, signed_update(update(scene, change), signers[by]))
    assert f"policy {policy} is not satisfied" in text


def test_a_majority_of_administrators_removes_an_organisation(scene: Scene) -> None:
    signers = [scene.admin(0), scene.admin(1)]
    made = next_config(scene.bundle, signed_update(update(scene, without_org3), signers))
    assert made.config is not None
    after = scene.bundle.updated(made.config)
    assert after.application is not None
    assert list(after.application.organisations) == ["Org1", "Org2"]


def test_the_existing_policy_decides_also_over_its_own_replacement(scene: Scene) -> None:
    wanted = update(scene, absolute)
    majority = [scene.admin(0), scene.admin(1)]
    assert "/Channel/Application/Admins" in refusal(
        scene.bundle, signed_update(wanted, [scene.orderer_admin])
    )
    made = next_config(scene.bundle, signed_update(wanted, majority))
    assert made.config is not None
    after = scene.bundle.updated(made.config)

    back, there = after.config, decode(Config, encode(after.config))
    assert there.channel_group is not None
    there.channel_group.groups["Application"].values["Capabilities"].mod_policy = "Admins"
    again = propose_update(scene.channel_id, back, there)
    assert "/Channel/Orderer/Admins" in refusal(after, signed_update(again, majority))
    made = next_config(after, signed_update(again, [scene.orderer_admin]))
    assert made.config is not None
    assert made.config.sequence == 2


def test_what_has_no_policy_cannot_be_changed(scene: Scene) -> None:
    config = scene.config()
    assert config.channel_group is not None
    config.channel_group.groups["Orderer"].values["BatchTimeout"].mod_policy = ""
    new = decode(Config, encode(config))
    assert new.channel_group is not None
    new_timeout(new.channel_group)
    new.channel_group.groups["Orderer"].values["BatchTimeout"].mod_policy = "Admins"
    made = signed_update(propose_update("mychannel", config, new), [scene.orderer_admin])
    assert "nobody may change it" in refusal(Bundle("mychannel", config), made)


def test_a_policy_that_is_not_there_is_satisfied_by_nobody(scene: Scene) -> None:
    config = scene.config()
    assert config.channel_group is not None
    config.channel_group.groups["Orderer"].values["BatchTimeout"].mod_policy = "NoSuch"
    new = decode(Config, encode(config))
    assert new.channel_group is not None
    new_timeout(new.channel_group)
    signers = [scene.orderer_admin, *(scene.admin(index) for index in range(3))]
    made = signed_update(propose_update("mychannel", config, new), signers)
    assert "/Channel/Orderer/NoSuch is not satisfied" in refusal(Bundle("mychannel", config), made)


def test_a_signature_over_another_update_does_not_count(scene: Scene) -> None:
    made = signed_update(update(scene, new_anchor), [scene.admin(0)])
    payload = decode(Payload, made.payload)
    signed = decode(ConfigUpdateEnvelope, payload.data)

    def with_other(data: bytes, signature: ConfigSignature) -> Envelope:
        content = ConfigUpdateEnvelope(config_update=data, signatures=[signature])
        return Envelope(payload=encode(Payload(header=payload.header, data=encode(content))))

    (signature,) = signed.signatures
    next_config(scene.bundle, with_other(signed.config_update, signature))

    # The same update in other bytes: what counts is what was signed.
    other = signed.config_update + encode(ConfigUpdate(isolated_data={"x": b""}))
    assert "is not satisfied" in refusal(scene.bundle, with_other(other, signature))

    header = decode(SignatureHeader, signature.signature_header)
    header.nonce = b"another"
    moved = ConfigSignature(encode(header), signature.signature)
    assert "is not satisfied" in refusal(scene.bundle, with_other(signed.config_update, moved))


# What is no update of this channel


def test_what_is_no_update_is_refused(scene: Scene) -> None:
    wanted = update(scene, new_anchor)
    kind = HeaderType.CONFIG_UPDATE

    def wrapped(content: ConfigUpdate) -> bytes:
        return encode(ConfigUpdateEnvelope(config_update=encode(content)))

    elsewhere = ConfigUpdate("other", wanted.read_set, wanted.write_set)
    bad_signature = ConfigUpdateEnvelope(
        config_update=encode(wanted), signatures=[ConfigSignature(signature_header=b"\xff")]
    )
    for made, reason in (
        (Envelope(payload=b"\xff"), "the payload cannot be read"),
        (Envelope(), "the payload has no header"),
        (envelope("mychannel", HeaderType.CONFIG, wrapped(wanted)), "of type 1, not CONFIG_UPDATE"),
        (envelope("other", kind, wrapped(wanted)), "an envelope of channel 'other'"),
        (envelope("mychannel", kind, b"\xff"), "the signed update cannot be read"),
        (
            envelope("mychannel", kind, encode(ConfigUpdateEnvelope(config_update=b"\xff"))),
            "the update cannot be read",
        ),
        (envelope("mychannel", kind, encode(bad_signature)), "signature's header cannot be read"),
        (envelope("mychannel", kind, wrapped(elsewhere)), "an update of channel 'other'"),
        (
            envelope("mychannel", kind, wrapped(ConfigUpdate("mychannel", group(0), None))),
            "a read set and a write set",
        ),
        (
            envelope("mychannel", kind, wrapped(ConfigUpdate("mychannel", None, group(0)))),
            "a read set and a write set",
        ),
    ):
        assert reason in refusal(scene.bundle, made)


def test_an_update_of_an_older_configuration_is_refused(scene: Scene) -> None:
    made = signed_update(update(scene, new_anchor), [scene.admin(0)])
    first = next_config(scene.bundle, made)
    assert first.config is not None
    after = scene.bundle.updated(first.config)
    assert "written at version 1, but it is at version 1" in refusal(after, made)


# At commit


@pytest.fixture
def made(scene: Scene) -> ConfigEnvelope:
    made = next_config(scene.bundle, signed_update(update(scene, new_anchor), [scene.admin(0)]))
    return decode(ConfigEnvelope, encode(made))  # what did not change belongs to the bundle, too


def invalid(scene: Scene, made: ConfigEnvelope) -> str:
    with pytest.raises(ConfigUpdateRefused) as caught:
        validate(scene.bundle, config_transaction(scene.channel_id, made))
    return str(caught.value)


def test_what_the_orderer_made_is_made_again(scene: Scene, made: ConfigEnvelope) -> None:
    found = validate(scene.bundle, config_transaction(scene.channel_id, made))
    assert made.config is not None
    assert encode(found) == encode(made.config)


def test_a_configuration_that_differs_from_its_update_is_refused(
    scene: Scene, made: ConfigEnvelope
) -> None:
    assert made.config is not None
    assert made.config.channel_group is not None
    new_timeout(made.config.channel_group)
    assert "not what its update makes" in invalid(scene, made)


def test_a_configuration_without_the_signatures_is_refused(
    scene: Scene, made: ConfigEnvelope
) -> None:
    made.last_update = signed_update(update(scene, new_anchor), [scene.user(0)])
    assert "/Channel/Application/Org1/Admins is not satisfied" in invalid(scene, made)


def test_a_configuration_lacks_its_parts(scene: Scene, made: ConfigEnvelope) -> None:
    lacking = "it lacks the configuration, or the update"
    assert lacking in invalid(scene, ConfigEnvelope(config=made.config))
    assert lacking in invalid(scene, ConfigEnvelope(last_update=made.last_update))
    bare = ConfigEnvelope(config=Config(sequence=1), last_update=made.last_update)
    assert lacking in invalid(scene, bare)


@pytest.mark.parametrize("sequence", [0, 2])
def test_a_configuration_has_the_next_sequence(
    scene: Scene, made: ConfigEnvelope, sequence: int
) -> None:
    assert made.config is not None
    made.config.sequence = sequence
    assert f"its sequence is {sequence}, but the current one is 0" in invalid(scene, made)


def test_what_is_no_configuration_is_refused(scene: Scene, made: ConfigEnvelope) -> None:
    for wrong, reason in (
        (config_transaction("other", made), "an envelope of channel 'other'"),
        (envelope("mychannel", HeaderType.ENDORSER_TRANSACTION, b""), "of type 3, not CONFIG"),
        (envelope("mychannel", HeaderType.CONFIG, b"\xff"), "the configuration cannot be read"),
    ):
        with pytest.raises(ConfigUpdateRefused, match=reason):
            validate(scene.bundle, wrong)


# To begin with


def test_the_first_configuration(scene: Scene) -> None:
    block = scene.network.genesis_block()
    assert block.data is not None
    (data,) = block.data.data
    assert genesis_config("mychannel", decode(Envelope, data)).sequence == 0
    with pytest.raises(ConfigUpdateRefused, match="an envelope of channel 'mychannel'"):
        genesis_config("other", decode(Envelope, data))
    empty = envelope("mychannel", HeaderType.CONFIG, encode(ConfigEnvelope(config=Config())))
    with pytest.raises(ConfigUpdateRefused, match="there is no configuration in it"):
        genesis_config("mychannel", empty)
