"""Images on the engine go with what they were made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from peer import Peer
from peer.errors import NotInstalled
from peer.lifecycle.packages import pack
from tests.integration.containers.code import ImageCode
from tests.integration.containers.site import CHANNEL, Site


async def ask(peer: Peer, name: str) -> None:
    result = await peer.query(CHANNEL, name, ["get", "key"])
    assert (result.status, result.message) == (200, "")


def images(site: Site, *ccids: str) -> list[bool]:
    """Tell of each package whether there is an image."""
    return [
        bool(site.house.listed("/images/json?all=true&", f"io.triopeer.ccid={ccid}"))
        for ccid in ccids
    ]


async def test_images_go_with_their_packages(site: Site, code: ImageCode, tmp_path: Path) -> None:
    path = tmp_path / "package.tar.gz"
    path.write_bytes(pack(code.book("packed"), "python", f"{code.label}packed"))
    source = code.book("source")
    async with site.peer() as peer:
        packed = (await peer.install(path, name="packed")).ccid
        former = (await peer.install(source, name="source")).ccid
        await ask(peer, "source")
        (source / "more.py").write_text("")
        changed = (await peer.install(source, name="source")).ccid
        assert site.house.containers() == []
        assert images(site, packed, former, changed) == [True, False, True]
        await ask(peer, "source")
    assert images(site, packed, changed) == [True, False]  # a directory is forgotten
    async with site.peer() as peer:
        await peer.install(path, name="packed")
        await ask(peer, "packed")
        await peer.uninstall("packed")
        assert site.left() == []
        assert images(site, packed) == [False]
        with pytest.raises(NotInstalled):
            await peer.uninstall(packed)
