"""The settings that are lists of more than words.

Room:      peer.config   (used by reading)
Loop:      none
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import yaml

from peer.config.model import AddressOverride, ExternalBuilder
from peer.config.neighbours import GatewayEndorser
from peer.config.values import ADDRESS


class ListSetting(NamedTuple):
    """A list, and where its value lives: ``config.<section>.<attribute>``.

    Attributes:
        read: makes a value of one entry, whose keys are in lower case, with paths that start at a
            directory; raises ValueError where it cannot.
    """

    key: str
    section: str
    attribute: str
    read: Callable[[dict[str, Any], Path], object]

    def entries(self, value: object, where: str, base: Path, problems: list[str]) -> Iterator[Any]:
        """Yield the values of a list, as far as they can be read.

        Args:
            value: as YAML made it, or as text.
            where: the source, for messages.
            base: the directory at which relative paths start.
        """
        if isinstance(value, str):  # of a variable or a flag, where YAML comes as text
            try:
                value = yaml.safe_load(value)
            except yaml.YAMLError:
                value = None
        for number, entry in enumerate(value if isinstance(value, list) else [value]):
            tree = {str(k).lower(): part for k, part in entry.items()} if _is_tree(entry) else {}
            try:
                yield self.read(tree, base)
            except ValueError as exc:
                problems.append(f"{where}[{number}]: {exc}")


def _builder(tree: dict[str, Any], base: Path) -> ExternalBuilder:
    names = tree.pop("propagateenvironment", []) or []
    path, name = tree.pop("path", ""), tree.pop("name", "")
    if tree or not (_is_text(path) and _is_text(name)):
        raise ValueError("expected path, name and perhaps propagateEnvironment of a builder")
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise ValueError("propagateEnvironment must be a list of names")
    return ExternalBuilder(name=name, path=base / path, propagate_environment=tuple(names))


def _endorser(tree: dict[str, Any], base: Path) -> GatewayEndorser:
    root = tree.pop("tlsrootcertfile", None)
    msp_id, address = tree.pop("mspid", ""), tree.pop("address", "")
    if tree or not (_is_text(msp_id) and _is_text(address) and (root is None or _is_text(root))):
        raise ValueError("expected mspId, address and perhaps tlsRootCertFile of a peer")
    return GatewayEndorser(
        msp_id=msp_id,
        address=ADDRESS.parse(address),
        tls_root=None if root is None else base / root,
    )


def _override(tree: dict[str, Any], base: Path) -> AddressOverride:
    roots = tree.pop("cacertsfile", None) or ""
    source, target = tree.pop("from", ""), tree.pop("to", "")
    if tree or not (_is_text(source) and _is_text(target) and isinstance(roots, str)):
        raise ValueError("expected from, to and perhaps caCertsFile of an orderer")
    return AddressOverride(
        channel_address=source,
        address=ADDRESS.parse(target),
        roots=str(base / roots) if roots else "",
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_tree(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


LISTS = (
    ListSetting("chaincode.externalBuilders", "chaincode", "external_builders", _builder),
    ListSetting("peer.gateway.endorsers", "gateway", "endorsers", _endorser),
    ListSetting("peer.deliveryclient.addressOverrides", "delivery", "address_overrides", _override),
)
