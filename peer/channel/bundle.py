"""A channel's configuration, checked and in a form to work with.

Room:      peer.channel   (imports fabric_protos, peer.errors, peer.msp; used by all that follows)
Loop:      none; safe to use from several threads
Lifetime:  one configuration: a channel gets a new bundle with every configuration block
Fabric:    common/channelconfig/{bundle,channel,orderer,application}.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fabric_protos.codec import encode
from fabric_protos.common import (
    BlockDataHashingStructure,
    Config,
    Consenter,
    HashingAlgorithm,
    OrdererAddresses,
    Orderers,
)
from fabric_protos.msp import FabricMspConfig
from fabric_protos.orderer import BatchSize, BatchTimeout, ConsensusType, ConsensusTypeState
from fabric_protos.protos import AcLs, AnchorPeers
from peer.channel import acls, capabilities
from peer.channel.capabilities import Capabilities
from peer.channel.sections import Section, duration_s, msp_config
from peer.channel.tree import is_channel_id
from peer.errors import ChannelConfigRefused, MspRefused, PolicyError
from peer.msp.manager import MspManager
from peer.msp.msp import Msp
from peer.msp.policies import Policy, PolicyManager
from peer.msp.version import MspVersion

BFT = "BFT"
HASHES = ("SHA256", "SHA3_256")
"""Names a configuration may give; block and commit hashes are SHA-256 all the same."""

_WHOLE_BLOCK = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    """A member of a channel.

    Attributes:
        name: key of its group, which need not be its MSP's id.
        msp: its MSP's definition.
    """

    name: str
    msp: FabricMspConfig = field(repr=False)

    @property
    def msp_id(self) -> str:
        """Its MSP's id."""
        return self.msp.name

    @property
    def tls_roots(self) -> tuple[bytes, ...]:
        """PEM certificates of the authorities behind its servers, intermediate ones too."""
        return (*self.msp.tls_root_certs, *self.msp.tls_intermediate_certs)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdererOrganisation(Organisation):
    """One that runs orderers; `endpoints` are theirs, ``host:port``."""

    endpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationOrganisation(Organisation):
    """One with peers; `anchor_peers` are host and port of those others may ask first."""

    anchor_peers: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orderer:
    """The section ``/Channel/Orderer``."""

    capabilities: Capabilities
    consensus_type: str
    consensus_metadata: bytes
    is_in_maintenance: bool
    batch_timeout_s: float
    max_message_count: int
    absolute_max_bytes: int
    preferred_max_bytes: int
    consenters: tuple[Consenter, ...]
    organisations: Mapping[str, OrdererOrganisation]


class Application(NamedTuple):
    """The section ``/Channel/Application``; `acls` are policy paths by resource."""

    capabilities: Capabilities
    organisations: Mapping[str, ApplicationOrganisation]
    acls: Mapping[str, str]


class Endpoint(NamedTuple):
    """Where an orderer listens, and the PEM authorities that may have certified it.

    Attributes:
        msp_id: of its organisation; empty for an address of the whole channel.
    """

    address: str
    tls_roots: tuple[bytes, ...]
    msp_id: str = ""


class Bundle:
    """What a configuration says: members, policies, capabilities, limits, access.

    Attributes:
        channel_id: the channel.
        config: the configuration as received.
        sequence: how many updates it has seen.
        capabilities: those of the channel section.
        msps: the members' MSPs.
        orderer: the orderer section; None where there is none.
        application: the application section; None in what is no channel for peers.

    Raises:
        ChannelConfigRefused: the configuration breaks a rule; `CapabilityUnknown` where it asks
            for what this peer cannot do.
    """

    def __init__(self, channel_id: str, config: Config) -> None:
        if not is_channel_id(channel_id):
            raise ChannelConfigRefused("/Channel", f"{channel_id!r} is no name of a channel")
        if config.channel_group is None:
            raise ChannelConfigRefused("/Channel", "there is no channel group")
        self.channel_id = channel_id
        self.config = config
        self.sequence = config.sequence
        root = Section("/Channel", config.channel_group)
        root.check_groups("Application", "Consortiums", "Orderer")
        _check_support(root)
        self.capabilities = root.capabilities(capabilities.CHANNEL)
        self.orderer_addresses = _orderer_addresses(root, self.capabilities)
        orderer, application = root.group("Orderer"), root.group("Application")
        self.orderer = _orderer(orderer, self.capabilities) if orderer else None
        self.application = _application(application) if application else None
        self.msps = MspManager(_msps(self.members, capabilities.msp_version(self.capabilities)))
        try:
            self.policies = PolicyManager(config.channel_group, self.msps)
        except PolicyError as exc:
            raise ChannelConfigRefused("/Channel", str(exc)) from exc

    @property
    def members(self) -> tuple[Organisation, ...]:
        """Every organisation; one that both orders and endorses stands here twice."""
        ordering = self.orderer.organisations.values() if self.orderer else ()
        endorsing = self.application.organisations.values() if self.application else ()
        return (*ordering, *endorsing)

    @property
    def orderer_endpoints(self) -> tuple[Endpoint, ...]:
        """Where blocks can be fetched and transactions sent, those of organisations first of all.

        Addresses of the whole channel count only where no organisation names its own.
        """
        organisations = tuple(self.orderer.organisations.values()) if self.orderer else ()
        own = tuple(
            Endpoint(address, organisation.tls_roots, organisation.msp_id)
            for organisation in organisations
            for address in organisation.endpoints
        )
        roots = tuple(root for organisation in organisations for root in organisation.tls_roots)
        return own or tuple(Endpoint(address, roots) for address in self.orderer_addresses)

    def policy(self, path: str) -> Policy:
        """Return a policy by its path; one that is not there is satisfied by nobody."""
        return self.policies.policy(path)

    def acl(self, resource: str) -> str:
        """Return the path of the policy over one of the peer's services on this channel.

        Resources in `acls.LOCAL` are not the channel's to decide on.

        Raises:
            KeyError: there is no such resource, or it is a local one.
        """
        default = acls.DEFAULTS[resource]
        return self.application.acls.get(resource, default) if self.application else default

    def updated(self, config: Config) -> Bundle:
        """Return the bundle of the next configuration.

        Raises:
            ChannelConfigRefused: it breaks a rule by itself, or changes what may not change.
        """
        new = Bundle(self.channel_id, config)
        for path, before, after in (
            ("/Channel/Orderer", self.orderer, new.orderer),
            ("/Channel/Application", self.application, new.application),
        ):
            if before is not None:
                if after is None:
                    raise ChannelConfigRefused(path, "it cannot be removed")
                _check_members(path, before.organisations, after.organisations)
        if self.orderer and new.orderer and "V1_4_2" not in self.capabilities:
            _check_unchanged(
                "/Channel/Orderer/ConsensusType",
                self.orderer.consensus_type,
                new.orderer.consensus_type,
            )
        return new


def _check_members(
    path: str, old: Mapping[str, Organisation], new: Mapping[str, Organisation]
) -> None:
    for name in old.keys() & new.keys():
        _check_unchanged(f"{path}/{name}/MSP", old[name].msp_id, new[name].msp_id)


def _check_unchanged(path: str, old: str, new: str) -> None:
    if old != new:
        raise ChannelConfigRefused(path, f"it cannot change from {old} to {new}")


def _check_support(root: Section) -> None:
    """Refuse capabilities that orderers of v1.0 would not look at."""
    orderer, application = root.group("Orderer"), root.group("Application")
    if orderer and "Capabilities" not in orderer:
        for section in (root, application):
            if section and "Capabilities" in section:
                raise ChannelConfigRefused(
                    f"{section.path}/Capabilities", "the orderer section must have them, too"
                )


def _orderer_addresses(root: Section, channel: Capabilities) -> tuple[str, ...]:
    root.check_values(
        "BlockDataHashingStructure", "Capabilities", "Consortium", "HashingAlgorithm",
        "OrdererAddresses",
    )  # fmt: skip
    if (name := root.value("HashingAlgorithm", HashingAlgorithm).name) not in HASHES:
        root.refuse("HashingAlgorithm", f"{name!r} is none of {', '.join(HASHES)}")
    if root.value("BlockDataHashingStructure", BlockDataHashingStructure).width != _WHOLE_BLOCK:
        root.refuse("BlockDataHashingStructure", f"the width must be {_WHOLE_BLOCK}")
    addresses = tuple(root.value("OrdererAddresses", OrdererAddresses).addresses)
    if addresses and "V3_0" in channel:
        root.refuse("OrdererAddresses", "with V3_0 each organisation has its own Endpoints")
    if not addresses and "V1_4_2" not in channel:
        root.refuse("OrdererAddresses", "there must be one")
    return addresses


def _orderer(section: Section, channel: Capabilities) -> Orderer:
    section.check_values(
        "BatchSize", "BatchTimeout", "Capabilities", "ChannelRestrictions", "ConsensusType",
        "KafkaBrokers", "Orderers",
    )  # fmt: skip
    consensus = section.value("ConsensusType", ConsensusType)
    size = section.value("BatchSize", BatchSize)
    for attribute in ("max_message_count", "absolute_max_bytes", "preferred_max_bytes"):
        if not getattr(size, attribute):
            section.refuse("BatchSize", f"{attribute} must be above 0")
    if size.preferred_max_bytes > size.absolute_max_bytes:
        section.refuse("BatchSize", "preferred_max_bytes is above absolute_max_bytes")
    consenters = tuple(section.value("Orderers", Orderers).consenter_mapping)
    if consensus.type == BFT and "V3_0" not in channel:
        section.refuse("ConsensusType", "BFT needs the channel capability V3_0")
    if consensus.type == BFT and not consenters:
        section.refuse("Orderers", "BFT needs consenters")
    return Orderer(
        capabilities=section.capabilities(capabilities.ORDERER),
        consensus_type=consensus.type,
        consensus_metadata=consensus.metadata,
        is_in_maintenance=consensus.state == ConsensusTypeState.MAINTENANCE,
        batch_timeout_s=duration_s(section, section.value("BatchTimeout", BatchTimeout).timeout),
        max_message_count=size.max_message_count,
        absolute_max_bytes=size.absolute_max_bytes,
        preferred_max_bytes=size.preferred_max_bytes,
        consenters=consenters,
        organisations={
            organisation.name: _orderer_organisation(organisation, channel)
            for organisation in section.groups()
        },
    )


def _orderer_organisation(section: Section, channel: Capabilities) -> OrdererOrganisation:
    section.check_groups()
    section.check_values("Endpoints", "MSP")
    if "Endpoints" in section and "V1_4_2" not in channel:
        section.refuse("Endpoints", "needs the channel capability V1_4_2")
    return OrdererOrganisation(
        name=section.name,
        msp=msp_config(section),
        endpoints=tuple(section.value("Endpoints", OrdererAddresses).addresses),
    )


def _application(section: Section) -> Application:
    section.check_values("ACLs", "Capabilities")
    found = section.capabilities(capabilities.APPLICATION, capabilities.EXPERIMENTS)
    if "ACLs" in section and "V1_2" not in found:
        section.refuse("ACLs", "needs the application capability V1_2")
    references = {
        resource: api.policy_ref for resource, api in section.value("ACLs", AcLs).acls.items()
    }
    return Application(
        capabilities=found,
        acls={
            resource: path if path.startswith("/") else f"{section.path}/{path}"
            for resource, path in references.items()
            if path
        },
        organisations={
            organisation.name: _application_organisation(organisation)
            for organisation in section.groups()
        },
    )


def _application_organisation(section: Section) -> ApplicationOrganisation:
    section.check_groups()
    section.check_values("AnchorPeers", "MSP")
    peers = section.value("AnchorPeers", AnchorPeers).anchor_peers
    return ApplicationOrganisation(
        name=section.name,
        msp=msp_config(section),
        anchor_peers=tuple((peer.host, peer.port) for peer in peers),
    )


def _msps(members: tuple[Organisation, ...], version: MspVersion) -> list[Msp]:
    """Build each MSP once; an organisation may stand in both sections with the same one."""
    found: dict[str, Organisation] = {}
    for member in members:
        other = found.setdefault(member.msp_id, member)
        if encode(other.msp) != encode(member.msp):
            raise ChannelConfigRefused(
                "/Channel", f"{other.name} and {member.name} define {member.msp_id} differently"
            )
    built = []
    for member in found.values():
        try:
            built.append(Msp(member.msp, version=version))
        except MspRefused as exc:
            raise ChannelConfigRefused(f"/Channel, organisation {member.name}", str(exc)) from exc
    return built
