"""A peer with its orderer, and the command line beside it.

Room:      tests.e2e   (imports peer; used by the tests of commands)
Loop:      none; the peer runs in a thread of its own
Lifetime:  a module's fixture
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from peer import Peer, PeerConfig, open_peer
from tests.integration.peer_thread import Held, held

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "asset_transfer"
MSP_ID = "SampleOrg"


@dataclass(frozen=True, slots=True)
class Site:
    """A peer that listens, and who calls it.

    Attributes:
        directory: the peer's data; its network is below.
        env: variables of every command.
    """

    peer: Held[Peer]
    directory: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where the peer listens."""
        return self.peer.value.address

    @property
    def orderer(self) -> str:
        """Where its orderer listens."""
        return self.peer.value.orderer_address

    @property
    def network(self) -> Path:
        """The keys of everybody."""
        return self.directory / "network"

    def __call__(
        self, *args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return command(*args, env={**self.env, **(env or {})}, cwd=cwd)

    def ok(self, *args: str | Path, env: Mapping[str, str] | None = None) -> tuple[str, str]:
        """Run a command that succeeds, and return what it prints and what it logs."""
        done = self(*args, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    def refused(self, *args: str | Path, env: Mapping[str, str] | None = None) -> str:
        """Run a command that fails and prints nothing, and return what it says at the end."""
        done = self(*args, env=env)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert "Traceback" not in done.stderr
        _, found, said = f"\n{done.stderr}".partition("\nError: ")
        assert found, done.stderr
        return said.removesuffix("\n")


def command(
    *args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with nothing of this process's configuration."""
    return subprocess.run(
        [sys.executable, "-m", "peer", *args],
        env={**variables(), **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def variables() -> dict[str, str]:
    """Return the environment without what configures a peer."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CORE_", "FABRIC_"))}
    return {**kept, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "proto")))}


@contextmanager
def site(directory: Path, *, tls: bool = False, mutual: bool = False) -> Iterator[Site]:
    """Hold a peer and its orderer, on ports of their own."""
    config = PeerConfig()
    config = replace(
        config,
        peer=replace(
            config.peer,
            file_system_path=str(directory),
            listen_address="127.0.0.1:0",
            tls_enabled=tls,
            tls_client_auth_required=mutual,
        ),
        orderer=replace(config.orderer, listen_address="127.0.0.1:0"),
    )
    with held(partial(open_peer, config)) as peer:
        env = {
            "CORE_PEER_FILESYSTEMPATH": str(directory),
            "CORE_PEER_ADDRESS": peer.value.address,
        }
        yield Site(peer, directory, env)
