"""Configurations: what is read from them, and which are refused."""

from __future__ import annotations

from collections.abc import Callable

import betterproto2
import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    BlockDataHashingStructure,
    Capability,
    Config,
    ConfigGroup,
    ConfigPolicy,
    ConfigValue,
    Consenter,
    HashingAlgorithm,
    ImplicitMetaPolicy,
    OrdererAddresses,
    Orderers,
    Policy,
)
from fabric_protos.common import Capabilities as CapabilitiesValue
from fabric_protos.msp import FabricMspConfig, MspConfig
from fabric_protos.orderer import BatchSize, BatchTimeout, ConsensusType, ConsensusTypeState
from fabric_protos.protos import AcLs, AnchorPeers, ApiResource
from peer.channel import acls, capabilities
from peer.channel.bundle import Bundle
from peer.channel.capabilities import Capabilities, msp_version
from peer.errors import CapabilityUnknown, ChannelConfigRefused, PolicyNotSatisfied
from peer.msp.policies import SignedData
from peer.msp.version import MspVersion
from tests.unit.channel.networks import Scene

Change = Callable[[ConfigGroup], None]


def at(root: ConfigGroup, path: str) -> ConfigGroup:
    """Return the group of a path below the root, such as ``Orderer``."""
    for name in path.split("/") if path else ():
        root = root.groups[name]
    return root


def put(path: str, name: str, message: betterproto2.Message) -> Change:
    def change(root: ConfigGroup) -> None:
        at(root, path).values[name] = ConfigValue(value=encode(message), mod_policy="Admins")

    return change


def garbage(path: str, name: str) -> Change:
    def change(root: ConfigGroup) -> None:
        at(root, path).values[name] = ConfigValue(value=b"\xff", mod_policy="Admins")

    return change


def drop(path: str, name: str) -> Change:
    def change(root: ConfigGroup) -> None:
        del at(root, path).values[name]

    return change


def add_group(path: str, name: str) -> Change:
    def change(root: ConfigGroup) -> None:
        at(root, path).groups[name] = ConfigGroup()

    return change


def require(path: str, *names: str) -> Change:
    value = CapabilitiesValue(capabilities={name: Capability() for name in names})
    return put(path, "Capabilities", value)


def bundle(scene: Scene, *changes: Change) -> Bundle:
    return Bundle(scene.channel_id, changed(scene, *changes))


def changed(scene: Scene, *changes: Change) -> Config:
    config = scene.config()
    assert config.channel_group is not None
    for change in changes:
        change(config.channel_group)
    return config


def refused(scene: Scene, *changes: Change) -> ChannelConfigRefused:
    with pytest.raises(ChannelConfigRefused) as caught:
        bundle(scene, *changes)
    return caught.value


# What is read


def test_the_sections(scene: Scene) -> None:
    found = scene.bundle
    assert (found.channel_id, found.sequence) == ("mychannel", 0)
    assert found.orderer is not None
    assert found.application is not None
    assert (found.orderer.consensus_type, found.orderer.is_in_maintenance) == ("solo", False)
    assert found.orderer.batch_timeout_s == 2.0
    assert found.orderer.max_message_count == 500
    assert found.orderer.absolute_max_bytes == 10 << 20
    assert found.orderer.preferred_max_bytes == 2 << 20
    assert [each.name for each in found.members] == ["Orderer", "Org1", "Org2", "Org3"]
    assert found.application.organisations["Org2"].msp_id == "Org2MSP"
    assert found.application.organisations["Org2"].anchor_peers == (("localhost", 8051),)
    assert sorted(found.msps.msps) == ["OrdererMSP", "Org1MSP", "Org2MSP", "Org3MSP"]


def test_maintenance(scene: Scene) -> None:
    value = ConsensusType(type="etcdraft", metadata=b"m", state=ConsensusTypeState.MAINTENANCE)
    orderer = bundle(scene, put("Orderer", "ConsensusType", value)).orderer
    assert orderer is not None
    assert (orderer.consensus_type, orderer.consensus_metadata) == ("etcdraft", b"m")
    assert orderer.is_in_maintenance


def test_endpoints_are_those_of_organisations_or_else_of_the_channel(scene: Scene) -> None:
    everywhere = put("", "OrdererAddresses", OrdererAddresses(addresses=["a:1", "b:2"]))
    tls_root = scene.bundle.members[0].tls_roots
    assert len(tls_root) == 1

    own = bundle(scene, everywhere).orderer_endpoints
    assert [(each.address, each.tls_roots) for each in own] == [("localhost:7050", tls_root)]

    shared = bundle(scene, everywhere, drop("Orderer/Orderer", "Endpoints")).orderer_endpoints
    assert [(each.address, each.tls_roots) for each in shared] == [
        ("a:1", tls_root),
        ("b:2", tls_root),
    ]
    assert bundle(scene, drop("Orderer/Orderer", "Endpoints")).orderer_endpoints == ()


def test_a_channel_without_orderers_or_without_applications(scene: Scene) -> None:
    def drop_group(name: str) -> Change:
        return lambda root: root.groups.__delitem__(name)

    without = bundle(scene, drop_group("Orderer"))
    assert without.orderer is None
    assert without.orderer_endpoints == ()
    assert without.updated(scene.config()).orderer is not None
    without = bundle(scene, drop_group("Application"))
    assert without.application is None
    assert without.acl("peer/Propose") == "/Channel/Application/Writers"


def test_policies_by_path(scene: Scene) -> None:
    def signed(by: str) -> list[SignedData]:
        signer = getattr(scene, by)()
        return [SignedData(b"data", signer.creator, signer.sign(b"data"))]

    found = scene.bundle
    found.policy("/Channel/Application/Readers").evaluate(signed("peer"))
    found.policy("/Channel/Application/Writers").evaluate(signed("user"))
    found.policy("/Channel/Application/Org1/Admins").evaluate(signed("admin"))
    for path, by in (
        ("/Channel/Application/Writers", "peer"),
        ("/Channel/Application/Org2/Admins", "admin"),
        ("/Channel/Application/Admins", "admin"),
        ("/Channel/Application/NoSuch", "admin"),
    ):
        with pytest.raises(PolicyNotSatisfied):
            found.policy(path).evaluate(signed(by))


# Access


def test_access_by_default(scene: Scene) -> None:
    assert scene.bundle.acl("peer/Propose") == "/Channel/Application/Writers"
    assert scene.bundle.acl("qscc/GetChainInfo") == "/Channel/Application/Readers"
    assert len(acls.DEFAULTS) == 22
    assert len(acls.LOCAL) == 16
    assert not acls.DEFAULTS.keys() & acls.LOCAL.keys()
    for resource in ("lscc/Install", "no/Such"):
        with pytest.raises(KeyError):
            scene.bundle.acl(resource)


def test_a_channel_changes_access_but_not_what_is_local(scene: Scene) -> None:
    resources = {
        "peer/Propose": "/Channel/Application/Admins",
        "qscc/GetChainInfo": "Writers",
        "event/Block": "",
        "lscc/Install": "/Channel/Application/Writers",
    }
    value = AcLs(acls={name: ApiResource(policy_ref=path) for name, path in resources.items()})
    found = bundle(scene, put("Application", "ACLs", value))
    assert found.acl("peer/Propose") == "/Channel/Application/Admins"
    assert found.acl("qscc/GetChainInfo") == "/Channel/Application/Writers"
    assert found.acl("event/Block") == "/Channel/Application/Readers"
    assert found.acl("event/FilteredBlock") == "/Channel/Application/Readers"
    with pytest.raises(KeyError):
        found.acl("lscc/Install")


# Capabilities


def test_a_later_capability_includes_the_earlier_ones() -> None:
    found = Capabilities("/x", ["V1_3"], capabilities.APPLICATION, capabilities.EXPERIMENTS)
    assert {name for name in capabilities.APPLICATION if name in found} == {"V1_1", "V1_2", "V1_3"}
    none = Capabilities("/x", [], capabilities.APPLICATION)
    assert not [name for name in capabilities.APPLICATION if name in none]
    assert (repr(found), repr(none)) == ("Capabilities(V1_3)", "Capabilities(none)")


def test_an_experiment_includes_nothing() -> None:
    name = capabilities.EXPERIMENTS[0]
    found = Capabilities("/x", [name], capabilities.APPLICATION, capabilities.EXPERIMENTS)
    assert name in found
    assert "V1_1" not in found


@pytest.mark.parametrize(
    ("required", "version"),
    [
        ([], MspVersion.V1_0),
        (["V1_1"], MspVersion.V1_1),
        (["V1_3"], MspVersion.V1_3),
        (["V1_4_2"], MspVersion.V1_3),
        (["V1_4_3"], MspVersion.V1_4_3),
        (["V2_0"], MspVersion.V1_4_3),
        (["V3_0"], MspVersion.V3_0),
    ],
)
def test_the_channel_says_by_which_rules_identities_are_judged(
    required: list[str], version: MspVersion
) -> None:
    assert msp_version(Capabilities("/x", required, capabilities.CHANNEL)) == version


@pytest.mark.parametrize("path", ["", "Orderer", "Application"])
def test_a_capability_that_is_not_known_is_refused(scene: Scene, path: str) -> None:
    with pytest.raises(CapabilityUnknown) as caught:
        bundle(scene, require(path, "V2_0", "V9_9", "V8_1"))
    assert caught.value.names == ("V8_1", "V9_9")
    assert caught.value.path == f"/Channel/{path}/Capabilities".replace("//", "/")
    assert "V8_1, V9_9" in str(caught.value)


# What is refused


@pytest.mark.parametrize(
    ("changes", "path", "reason"),
    [
        ([put("", "HashingAlgorithm", HashingAlgorithm(name="MD5"))], "HashingAlgorithm", "'MD5'"),
        ([drop("", "HashingAlgorithm")], "HashingAlgorithm", "''"),
        (
            [put("", "BlockDataHashingStructure", BlockDataHashingStructure(width=2))],
            "BlockDataHashingStructure",
            "width",
        ),
        ([garbage("", "HashingAlgorithm")], "HashingAlgorithm", "cannot be read"),
        ([put("", "Colour", HashingAlgorithm())], "Colour", "no value of that name"),
        ([put("Orderer", "MSP", MspConfig())], "Orderer/MSP", "no value of that name"),
        ([put("Application", "BatchSize", BatchSize())], "Application/BatchSize", "no value"),
        ([add_group("", "Elsewhere")], "Elsewhere", "no group of that name"),
        ([add_group("Orderer/Orderer", "Unit")], "Orderer/Orderer/Unit", "no group"),
        ([add_group("Application/Org1", "Unit")], "Application/Org1/Unit", "no group"),
        (
            [require("", "V1_1"), put("", "OrdererAddresses", OrdererAddresses(["a:1"]))],
            "Orderer/Orderer/Endpoints",
            "V1_4_2",
        ),
        (
            [require("", "V1_1"), drop("Orderer/Orderer", "Endpoints")],
            "OrdererAddresses",
            "there must be one",
        ),
        (
            [require("", "V3_0"), put("", "OrdererAddresses", OrdererAddresses(["a:1"]))],
            "OrdererAddresses",
            "Endpoints",
        ),
        ([drop("Orderer", "Capabilities")], "Capabilities", "the orderer section"),
        (
            [drop("Orderer", "Capabilities"), drop("", "Capabilities")],
            "Application/Capabilities",
            "the orderer section",
        ),
        ([drop("Orderer", "BatchSize")], "Orderer/BatchSize", "max_message_count"),
        (
            [put("Orderer", "BatchSize", BatchSize(1, 0, 1))],
            "Orderer/BatchSize",
            "absolute_max_bytes must be above 0",
        ),
        (
            [put("Orderer", "BatchSize", BatchSize(1, 1, 0))],
            "Orderer/BatchSize",
            "preferred_max_bytes must be above 0",
        ),
        (
            [put("Orderer", "BatchSize", BatchSize(1, 1, 2))],
            "Orderer/BatchSize",
            "is above absolute_max_bytes",
        ),
        ([drop("Orderer", "BatchTimeout")], "Orderer/BatchTimeout", "''"),
        (
            [put("Orderer", "ConsensusType", ConsensusType(type="BFT"))],
            "Orderer/ConsensusType",
            "V3_0",
        ),
        (
            [require("", "V3_0"), put("Orderer", "ConsensusType", ConsensusType(type="BFT"))],
            "Orderer/Orderers",
            "consenters",
        ),
        (
            [require("Application", "V1_1"), put("Application", "ACLs", AcLs())],
            "Application/ACLs",
            "V1_2",
        ),
        ([drop("Application/Org1", "MSP")], "Application/Org1/MSP", "must have one"),
        ([put("Application/Org1", "MSP", MspConfig(type=1))], "Application/Org1/MSP", "type 1"),
        (
            [put("Application/Org1", "MSP", MspConfig(config=b"\xff"))],
            "Application/Org1/MSP",
            "cannot be read",
        ),
        ([put("Application/Org1", "MSP", MspConfig())], "Application/Org1/MSP", "name is empty"),
        ([garbage("Application/Org1", "AnchorPeers")], "Application/Org1/AnchorPeers", "read"),
    ],
)
def test_a_rule_is_broken(scene: Scene, changes: list[Change], path: str, reason: str) -> None:
    error = refused(scene, *changes)
    assert error.path == f"/Channel/{path}"
    assert reason in error.reason


@pytest.mark.parametrize("text", ["0s", "-1s", "2", "soon", "2 s"])
def test_a_batch_timeout_is_a_duration_above_0(scene: Scene, text: str) -> None:
    error = refused(scene, put("Orderer", "BatchTimeout", BatchTimeout(timeout=text)))
    assert error.path == "/Channel/Orderer/BatchTimeout"
    assert repr(text) in error.reason


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2.0), ("500ms", 0.5), ("1m30s", 90.0), ("1.5h", 5400.0)]
)
def test_batch_timeouts_are_gos(scene: Scene, text: str, seconds: float) -> None:
    found = bundle(scene, put("Orderer", "BatchTimeout", BatchTimeout(timeout=text))).orderer
    assert found is not None
    assert found.batch_timeout_s == seconds


@pytest.mark.parametrize("channel_id", ["", "Upper", "x" * 250, "a_b"])
def test_a_channel_has_a_proper_name(scene: Scene, channel_id: str) -> None:
    with pytest.raises(ChannelConfigRefused, match="is no name of a channel"):
        Bundle(channel_id, scene.config())


def test_a_configuration_has_a_tree(scene: Scene) -> None:
    with pytest.raises(ChannelConfigRefused, match="there is no channel group"):
        Bundle("ch", Config())


def test_a_policy_that_cannot_be_built_is_refused(scene: Scene) -> None:
    def change(root: ConfigGroup) -> None:
        root.policies["Odd"] = ConfigPolicy(policy=Policy(type=1, value=b"\xff"))

    assert "Odd" in str(refused(scene, change))


def msp_of(root: ConfigGroup, path: str) -> FabricMspConfig:
    return decode(FabricMspConfig, decode(MspConfig, at(root, path).values["MSP"].value).config)


def change_msp(path: str, edit: Callable[[FabricMspConfig], None]) -> Change:
    def change(root: ConfigGroup) -> None:
        msp = msp_of(root, path)
        edit(msp)
        put(path, "MSP", MspConfig(config=encode(msp)))(root)

    return change


def test_an_msp_must_be_sound(scene: Scene) -> None:
    error = refused(scene, change_msp("Application/Org1", lambda msp: msp.root_certs.clear()))
    assert "Org1" in error.path
    assert "Org1MSP" in error.reason


def rename(name: str) -> Callable[[FabricMspConfig], None]:
    return lambda msp: setattr(msp, "name", name)


def test_two_msps_of_one_name_must_be_one(scene: Scene) -> None:
    error = refused(scene, change_msp("Application/Org1", rename("Org2MSP")))
    assert error.reason == "Org1 and Org2 define Org2MSP differently"


def test_an_organisation_may_both_order_and_endorse(scene: Scene) -> None:
    def join(root: ConfigGroup) -> None:
        organisation = decode(ConfigGroup, encode(at(root, "Application/Org1")))
        del organisation.values["AnchorPeers"]
        at(root, "Orderer").groups["Org1"] = organisation

    found = bundle(scene, join)
    assert [each.name for each in found.members] == ["Orderer", "Org1", "Org1", "Org2", "Org3"]
    assert len(found.msps.msps) == 4


# From one configuration to the next


def test_what_may_change(scene: Scene) -> None:
    def leave(root: ConfigGroup) -> None:
        del at(root, "Application").groups["Org3"]

    config = changed(
        scene,
        leave,
        put("Orderer", "ConsensusType", ConsensusType(type="etcdraft")),
        put("Application/Org1", "AnchorPeers", AnchorPeers()),
    )
    config.sequence = 1
    found = scene.bundle.updated(config)
    assert found.sequence == 1
    assert found.application is not None
    assert list(found.application.organisations) == ["Org1", "Org2"]
    assert found.application.organisations["Org1"].anchor_peers == ()


@pytest.mark.parametrize("section", ["Application", "Orderer"])
def test_a_section_cannot_be_removed(scene: Scene, section: str) -> None:
    config = changed(scene, lambda root: root.groups.__delitem__(section))
    with pytest.raises(ChannelConfigRefused, match=f"/Channel/{section}: it cannot be removed"):
        scene.bundle.updated(config)


@pytest.mark.parametrize("path", ["Application/Org1", "Orderer/Orderer"])
def test_an_organisation_keeps_its_msp_id(scene: Scene, path: str) -> None:
    config = changed(scene, change_msp(path, rename("OtherMSP")))
    with pytest.raises(ChannelConfigRefused, match=f"/Channel/{path}/MSP: it cannot change from"):
        scene.bundle.updated(config)


def test_consensus_may_change_where_the_capability_says_so(scene: Scene) -> None:
    old = (
        require("", "V1_1"),
        drop("Orderer/Orderer", "Endpoints"),
        put("", "OrdererAddresses", OrdererAddresses(addresses=["a:1"])),
    )
    new = put("Orderer", "ConsensusType", ConsensusType(type="etcdraft"))
    before = bundle(scene, *old)
    before.updated(changed(scene, *old))
    with pytest.raises(ChannelConfigRefused, match="it cannot change from solo to etcdraft"):
        before.updated(changed(scene, *old, new))


def test_a_bft_section(scene: Scene) -> None:
    consenters = [Consenter(id=number, msp_id="OrdererMSP") for number in (1, 2, 3, 4)]
    found = bundle(
        scene,
        require("", "V3_0"),
        put("Orderer", "ConsensusType", ConsensusType(type="BFT")),
        put("Orderer", "Orderers", Orderers(consenter_mapping=consenters)),
    )
    assert found.orderer is not None
    assert [consenter.id for consenter in found.orderer.consenters] == [1, 2, 3, 4]


def test_meta_policies_over_nothing_known_are_never_satisfied(scene: Scene) -> None:
    def change(root: ConfigGroup) -> None:
        value = encode(ImplicitMetaPolicy(sub_policy="NoSuch"))
        at(root, "Application").policies["Odd"] = ConfigPolicy(policy=Policy(type=3, value=value))

    signer = scene.admin()
    signed = [SignedData(b"data", signer.creator, signer.sign(b"data"))]
    with pytest.raises(PolicyNotSatisfied):
        bundle(scene, change).policy("/Channel/Application/Odd").evaluate(signed)
