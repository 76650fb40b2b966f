"""Reading one group of a configuration.

Room:      peer.channel   (imports fabric_protos, peer.config, peer.errors; used by bundle)
Loop:      none
Lifetime:  while a bundle is built
Fabric:    common/channelconfig/standardvalues.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn, TypeVar

import betterproto2

from fabric_protos.codec import decode
from fabric_protos.common import Capabilities as CapabilitiesValue
from fabric_protos.common import ConfigGroup
from fabric_protos.errors import DecodeError
from fabric_protos.msp import FabricMspConfig, MspConfig
from peer.channel.capabilities import Capabilities
from peer.config.values import parse_duration
from peer.errors import ChannelConfigRefused

M = TypeVar("M", bound=betterproto2.Message)

_FABRIC_MSP = 0


class Section:
    """A group and where it stands; every error names the element."""

    def __init__(self, path: str, group: ConfigGroup) -> None:
        self.path = path
        self._group = group

    @property
    def name(self) -> str:
        """Key of the group."""
        return self.path.rpartition("/")[2]

    def __contains__(self, value: str) -> bool:
        return value in self._group.values

    def refuse(self, name: str, reason: str) -> NoReturn:
        """Refuse the configuration because of one of the group's values or groups."""
        raise ChannelConfigRefused(f"{self.path}/{name}", reason)

    def check_values(self, *known: str) -> None:
        """Refuse values of other names: what this peer does not know, it cannot heed."""
        for name in self._group.values.keys() - set(known):
            self.refuse(name, "no value of that name belongs there")

    def check_groups(self, *known: str) -> None:
        """Refuse groups of other names."""
        for name in self._group.groups.keys() - set(known):
            self.refuse(name, "no group of that name belongs there")

    def value(self, name: str, cls: type[M]) -> M:
        """Return a value, an empty one where it is missing."""
        found = self._group.values.get(name)
        try:
            return decode(cls, found.value) if found else cls()
        except DecodeError as exc:
            self.refuse(name, f"it cannot be read: {exc}")

    def capabilities(self, versions: Sequence[str], others: Sequence[str] = ()) -> Capabilities:
        """Return what the group requires."""
        required = self.value("Capabilities", CapabilitiesValue).capabilities
        return Capabilities(f"{self.path}/Capabilities", required, versions, others)

    def group(self, name: str) -> Section | None:
        """Return one of the groups in this one."""
        found = self._group.groups.get(name)
        return None if found is None else Section(f"{self.path}/{name}", found)

    def groups(self) -> list[Section]:
        """Return all groups in this one, by name."""
        return [
            Section(f"{self.path}/{name}", group)
            for name, group in sorted(self._group.groups.items())
        ]


def duration_s(section: Section, text: str) -> float:
    """Return a batch timeout in seconds."""
    try:
        seconds = 0.0 if text.isdigit() else parse_duration(text)
    except ValueError as exc:
        section.refuse("BatchTimeout", f"{text!r}: {exc}")
    if seconds <= 0:
        section.refuse("BatchTimeout", f"{text!r} is no duration above 0 such as 2s or 500ms")
    return seconds


def msp_config(section: Section) -> FabricMspConfig:
    """Return the MSP of an organisation."""
    if "MSP" not in section:
        section.refuse("MSP", "an organisation must have one")
    outer = section.value("MSP", MspConfig)
    if outer.type != _FABRIC_MSP:
        section.refuse("MSP", f"type {outer.type} is not supported, X.509 alone is")
    try:
        found = decode(FabricMspConfig, outer.config)
    except DecodeError as exc:
        section.refuse("MSP", f"it cannot be read: {exc}")
    if not found.name:
        section.refuse("MSP", "its name is empty")
    return found
