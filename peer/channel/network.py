"""A development network in one directory: organisations with all their keys, and a channel.

Room:      peer.channel   (imports fabric_protos, peer.config, peer.msp;
           used by embedded, serving, orderer and cli)
Loop:      none; reads and writes files, so call it in a worker thread
Lifetime:  the directory's
Fabric:    none; what cryptogen and configtxgen make together

Every name follows from the `NetworkDescription`, which lies in the directory beside what was made
of it. The keys of all organisations are there, so the directory is for development alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fabric_protos.codec import decode, encode
from fabric_protos.common import Block
from fabric_protos.errors import DecodeError
from peer.channel.genesis import (
    CAPABILITIES,
    ApplicationMember,
    ChannelDescription,
    OrdererMember,
    OrdererSettings,
    genesis_block,
)
from peer.channel.material import ADMIN, PRIVATE, organisation_files
from peer.channel.tree import is_channel_id
from peer.config.values import parse_duration, split_address
from peer.errors import ConfigError, NetworkDirectoryError
from peer.msp.directory import load_config

DOMAIN = "example.com"
DESCRIPTION = "network.json"
ORDERER = "Orderer"

_FIRST_PEER_PORT = 7051
_ORDERER_PORT = 7050
_PORT_STEP = 1000
_MAX_PEERS = (65535 - _FIRST_PEER_PORT) // _PORT_STEP + 1
_ORGANISATION = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,30}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDescription:
    """What a network is made of.

    Attributes:
        organisations: names of the peers' organisations; MSP ids and domains follow from them.
        peers: how many each organisation has.
        users: how many each organisation has, besides its administrator.
        capability: of the application, a key of `genesis.CAPABILITIES`.
        batch_timeout: longest time a transaction waits for others, a Go duration.
        msp_suffix: what makes an MSP id of an organisation's name.
        addresses: ``host:port`` of nodes on other machines than this one, by their names, such as
            ``orderer.example.com``; the others are at ``localhost``.

    Raises:
        ConfigError: names or numbers that cannot be used.
    """

    channel_id: str = "mychannel"
    organisations: tuple[str, ...] = ("Org1",)
    peers: int = 1
    users: int = 1
    capability: str = "V2_0"
    batch_timeout: str = "2s"
    msp_suffix: str = "MSP"
    addresses: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise ConfigError(problems)

    def _problems(self) -> Iterator[str]:
        if not is_channel_id(self.channel_id):
            yield (
                f"channel {self.channel_id!r}: expected lower-case letters, digits, dots and "
                "dashes, a letter first"
            )
        for name in self.organisations:
            if not _ORGANISATION.fullmatch(name):
                yield (
                    f"organisation {name!r}: expected up to 31 letters, digits and dashes, a "
                    "letter first"
                )
        names = [name.lower() for name in (ORDERER, *self.organisations)]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"organisation {name!r}: the name is taken; upper or lower case does not count"
        limit = _MAX_PEERS // max(len(self.organisations), 1)
        if not self.organisations or not 1 <= self.peers <= limit:
            yield f"1 to {_MAX_PEERS} peers are possible, as many in each organisation"
        if self.users < 0:
            yield f"users {self.users}: expected 0 or more"
        if self.capability not in CAPABILITIES:
            yield f"capability {self.capability!r}: expected one of {', '.join(CAPABILITIES)}"
        try:
            is_positive = parse_duration(self.batch_timeout) > 0
        except ValueError:
            is_positive = False
        if not is_positive:
            yield f"batch timeout {self.batch_timeout!r}: expected a duration such as 2s or 500ms"
        for name, address in self.addresses.items():
            try:
                has_host = bool(split_address(address)[0])
            except ValueError:
                has_host = False
            if not has_host:
                yield f"address {address!r} of {name}: expected host:port"


class Member(NamedTuple):
    """A node or user: ``msp`` and ``tls`` are in its directory; users have no address."""

    name: str
    directory: Path
    address: str = ""

    @property
    def msp(self) -> Path:
        """Its own MSP directory, with its key."""
        return self.directory / "msp"

    @property
    def tls(self) -> Path:
        """``ca.crt``, and ``server.crt`` and ``server.key``, or the same of a client."""
        return self.directory / "tls"


class NetworkOrganisation(NamedTuple):
    """An organisation of a network; its administrator is the first of the users."""

    name: str
    msp_id: str
    directory: Path
    nodes: tuple[Member, ...]
    users: tuple[Member, ...]

    @property
    def msp(self) -> Path:
        """The MSP directory that others may see: no keys in it."""
        return self.directory / "msp"


class Network(NamedTuple):
    """A network that was made."""

    directory: Path
    description: NetworkDescription
    orderer: NetworkOrganisation
    organisations: tuple[NetworkOrganisation, ...]

    @property
    def channel_id(self) -> str:
        """Its channel."""
        return self.description.channel_id

    @property
    def genesis_path(self) -> Path:
        """The file of the channel's genesis block."""
        return self.directory / f"{self.channel_id}.block"

    def genesis_block(self) -> Block:
        """Read the channel's genesis block.

        Raises:
            NetworkDirectoryError: it is missing or damaged.
        """
        try:
            return decode(Block, self.genesis_path.read_bytes())
        except (OSError, DecodeError) as exc:
            raise NetworkDirectoryError(str(self.genesis_path), str(exc)) from exc


def create(directory: Path, description: NetworkDescription) -> Network:
    """Make a network in a directory that does not exist, or is empty.

    It appears there complete or not at all.

    Raises:
        ConfigError: an address is that of no node.
        NetworkDirectoryError: something is there already, or cannot be written.
    """
    directory = directory.absolute()
    wanted = _laid_out(directory, description)
    nodes = {node.name for each in (wanted.orderer, *wanted.organisations) for node in each.nodes}
    if strangers := sorted(description.addresses.keys() - nodes):
        known = ", ".join(sorted(nodes))
        raise ConfigError([f"address of {name}: the nodes are {known}" for name in strangers])
    try:
        if directory.is_dir() and any(directory.iterdir()):
            raise NetworkDirectoryError(str(directory), "the directory is not empty")
        directory.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            _write(_laid_out(staging, description))
            os.rename(staging, directory)  # fails where others made something meanwhile
        except BaseException:
            shutil.rmtree(staging)
            raise
    except OSError as exc:
        raise NetworkDirectoryError(str(directory), exc.strerror or str(exc)) from exc
    return wanted


def new_channel(network: Network, channel_id: str, capability: str = "") -> Block:
    """Return the genesis block of another channel of all organisations of a network.

    Args:
        capability: of its application section; that of the network's own channel if empty.

    Raises:
        ConfigError: the name cannot be used, or there is no such capability.
        NetworkDirectoryError: a file of the network is missing or damaged.
    """
    description = network.description
    named = dataclasses.replace(
        description, channel_id=channel_id, capability=capability or description.capability
    )
    return genesis_block(_channel(network._replace(description=named)))


def load(directory: Path) -> Network:
    """Find a network that `create` made.

    Raises:
        NetworkDirectoryError: it is not there, or not all of it.
    """
    directory = directory.absolute()
    path = directory / DESCRIPTION
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise NetworkDirectoryError(str(directory), f"there is no {DESCRIPTION} in it") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise NetworkDirectoryError(str(path), str(exc)) from exc
    try:
        values = json.loads(text)
        values["organisations"] = tuple(values["organisations"])
        addresses = dict(values.get("addresses", {})).items()
        values["addresses"] = {str(name): str(address) for name, address in addresses}
        description = NetworkDescription(**values)
    except (ConfigError, ValueError, TypeError, KeyError) as exc:
        raise NetworkDirectoryError(str(path), f"it cannot be read: {exc}") from exc
    network = _laid_out(directory, description)
    for place in (network.genesis_path, *_directories(network)):
        if not place.exists():
            raise NetworkDirectoryError(str(place), "it is missing")
    return network


def _directories(network: Network) -> list[Path]:
    members = [
        member
        for organisation in (network.orderer, *network.organisations)
        for member in (*organisation.nodes, *organisation.users)
    ]
    return [place for member in members for place in (member.msp, member.tls)]


def _laid_out(directory: Path, description: NetworkDescription) -> Network:
    orderer = _organisation(
        directory / "ordererOrganizations" / DOMAIN,
        ORDERER,
        "orderers",
        {"orderer": f"localhost:{_ORDERER_PORT}"},
        users=0,
        description=description,
    )
    organisations = []
    for index, name in enumerate(description.organisations):
        first = _FIRST_PEER_PORT + index * description.peers * _PORT_STEP
        peers = {
            f"peer{number}": f"localhost:{first + number * _PORT_STEP}"
            for number in range(description.peers)
        }
        place = directory / "peerOrganizations" / f"{name.lower()}.{DOMAIN}"
        organisations.append(
            _organisation(
                place,
                name,
                "peers",
                peers,
                users=description.users,
                description=description,
            )
        )
    return Network(directory, description, orderer, tuple(organisations))


def _organisation(
    directory: Path,
    name: str,
    place: str,
    nodes: Mapping[str, str],
    *,
    users: int,
    description: NetworkDescription,
) -> NetworkOrganisation:
    domain = directory.name
    addresses = description.addresses
    user_names = [ADMIN, *(f"User{number}" for number in range(1, users + 1))]
    return NetworkOrganisation(
        name,
        f"{name}{description.msp_suffix}",
        directory,
        tuple(
            Member(full, directory / place / full, addresses.get(full, address))
            for full, address in ((f"{node}.{domain}", nodes[node]) for node in nodes)
        ),
        tuple(
            Member(f"{user}@{domain}", directory / "users" / f"{user}@{domain}")
            for user in user_names
        ),
    )


def _write(network: Network) -> None:
    for role, organisation in (
        ("orderer", network.orderer),
        *(("peer", organisation) for organisation in network.organisations),
    ):
        domain = organisation.directory.name
        files = organisation_files(
            domain,
            role,
            {
                node.name.removesuffix(f".{domain}"): split_address(node.address)[0]
                for node in organisation.nodes
            },
            [user.name.removesuffix(f"@{domain}") for user in organisation.users],
        )
        for path, content in files.items():
            _write_file(organisation.directory / path, content)
    _write_file(network.genesis_path, encode(genesis_block(_channel(network))))
    text = json.dumps(dataclasses.asdict(network.description), indent=2) + "\n"
    _write_file(network.directory / DESCRIPTION, text.encode())


def _channel(network: Network) -> ChannelDescription:
    orderer = network.orderer
    return ChannelDescription(
        channel_id=network.channel_id,
        capability=network.description.capability,
        members=[
            ApplicationMember(
                name=each.name,
                msp=load_config(each.msp, each.msp_id),
                anchor_peers=[split_address(each.nodes[0].address)],
            )
            for each in network.organisations
        ],
        orderer=OrdererSettings(
            batch_timeout=network.description.batch_timeout,
            members=[
                OrdererMember(
                    name=orderer.name,
                    msp=load_config(orderer.msp, orderer.msp_id),
                    endpoints=[node.address for node in orderer.nodes],
                )
            ],
        ),
    )


def _write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = 0o600 if path.name in PRIVATE else 0o644
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
