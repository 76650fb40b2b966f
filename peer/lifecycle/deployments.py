"""Follow definitions: indexes of what is installed here, an end to what nothing leads to any more.

Room:      peer.lifecycle   (imports its room, peer.ledger; used by assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    core/ledger/cceventmgmt/{mgr,lscc_state_listener}.go, core/chaincode/lifecycle/
           {event_broker,custodian}.go (release-2.5)

Definition and package come in any order: whichever is the later one brings the indexes. A package
that is not here leaves them as they are; one without indexes, or none any more, removes them.
Whoever moved a definition to another package, what runs of the former one is retired. A peer that
starts launches what it has run before.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import trio

from peer.errors import LaunchError, LedgerError, PackageError
from peer.ledger.api import CommittedBlock, Ledger
from peer.lifecycle import state
from peer.lifecycle.definitions import Definitions, Deployed
from peer.lifecycle.indexes import by_collection
from runtimes.api import RuntimeFailure

log = logging.getLogger("peer.lifecycle")


class IndexedPackages(Protocol):
    """Knows what is installed, and the index files it brings."""

    def is_installed(self, ccid: str) -> bool: ...

    async def indexes(self, ccid: str) -> Mapping[str, bytes]: ...


class Deployments:
    """Watches definitions and packages of one peer.

    Args:
        channels: names of the joined channels.
        ledger: finds the ledger of one of them.
        retire: hears of a package that definitions led to, and none does any more; must not wait.
    """

    def __init__(
        self,
        *,
        channels: Callable[[], Sequence[str]],
        ledger: Callable[[str], Ledger],
        definitions: Definitions,
        packages: IndexedPackages,
        retire: Callable[[str], None] = lambda ccid: None,
    ) -> None:
        self._channels = channels
        self._ledger = ledger
        self._definitions = definitions
        self._packages = packages
        self._retire = retire
        self._runs: dict[tuple[str, str], str] = {}
        self._known: dict[tuple[str, str], tuple[str, frozenset[str]]] = {}
        self._one_at_a_time = trio.Lock()

    async def on_commit(self, channel_id: str, committed: CommittedBlock) -> None:
        """Hear of a block before anybody else does: it may define chaincodes."""
        self._definitions.on_commit(channel_id, committed)
        if not committed.namespaces.isdisjoint((state.LIFECYCLE, state.LSCC)):
            await self.refresh(channel_id)

    async def on_install(self, ccid: str) -> None:
        """Hear of a package that is installed, and built, now or once more."""
        self._known = {where: known for where, known in self._known.items() if known[0] != ccid}
        for channel_id in self._channels():
            await self.refresh(channel_id)

    async def launch_all(self, launch: Callable[[str], Awaitable[object]]) -> None:
        """Launch what the definitions lead to, so that no first caller has to wait for it.

        One after the other, as a start has other things to do. What fails is logged, and launched
        again when it is called.

        Cancellation: leaves the launch that goes on.
        Source: ChaincodeCustodian.Work, core/chaincode/lifecycle/custodian.go (release-2.5).
        """
        for ccid in sorted(set(self._runs.values())):
            if ccid and self.is_defined(ccid) and self._packages.is_installed(ccid):
                try:
                    await launch(ccid)
                except LaunchError as exc:
                    log.warning("%s", exc)

    def is_defined(self, ccid: str) -> bool:
        """Tell whether a definition on any channel leads to a package."""
        return ccid in self._runs.values()

    async def refresh(self, channel_id: str) -> None:
        """Make the indexes on a channel those of its chaincodes; what cannot be made is logged.

        Cancellation: between two chaincodes.
        """
        async with self._one_at_a_time:
            for name in await self._definitions.names(channel_id):
                try:
                    await self._refresh(channel_id, name)
                except (LedgerError, PackageError, RuntimeFailure) as exc:
                    log.warning("indexes of chaincode %s on %s: %s", name, channel_id, exc)

    async def _refresh(self, channel_id: str, name: str) -> None:
        deployed = self._definitions.deployed(channel_id, name)
        if deployed is None:
            return
        ccid = _package_of(deployed)
        self._follow((channel_id, name), ccid)
        collections = state.collection_names(deployed.collections)
        is_withdrawn = deployed.approved and not ccid
        if self._known.get((channel_id, name)) == (ccid, collections):
            return
        files: Mapping[str, bytes] = {}
        if not is_withdrawn:
            if not self._packages.is_installed(ccid):
                return
            files = await self._packages.indexes(ccid)
        definitions = by_collection(files)
        definitions |= {name: [] for name in {"", *collections} - definitions.keys()}
        for collection in definitions.keys() - collections - {""}:
            log.warning(
                "chaincode %s has an index for a collection %s it has not", name, collection
            )
            del definitions[collection]
        await self._ledger(channel_id).set_indexes(name, definitions)
        self._known[channel_id, name] = ccid, collections

    def _follow(self, definition: tuple[str, str], ccid: str) -> None:
        """Note which package a definition leads to; retire the former one if this was the last."""
        former = self._runs.get(definition, "")
        self._runs[definition] = ccid
        if former and not self.is_defined(former):
            self._retire(former)


def _package_of(deployed: Deployed) -> str:
    data = deployed.legacy
    return deployed.ccid if data is None else f"{data.name}:{data.version}"
