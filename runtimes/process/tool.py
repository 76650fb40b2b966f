"""Run one program to its end, with nothing left of it.

Room:      runtimes.process   (imports link, output; used by peer.lifecycle for builds)
Loop:      Trio
Lifetime:  one program, held by a keeper of its own
Fabric:    none
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import trio

from runtimes.api import ExitStatus, RuntimeFailure
from runtimes.output import Output
from runtimes.process import keeper
from runtimes.process.link import Command, KeeperLink


class Ended(NamedTuple):
    """How a program ended, and its last lines of output, oldest first."""

    status: ExitStatus
    tail: tuple[str, ...]


async def run_tool(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    on_line: Callable[[str], None],
) -> Ended:
    """Return once the program has ended and every process it started is gone.

    Args:
        env: its whole environment.
        on_line: called with each line of its standard output and error, as it comes.

    Raises:
        StartFailed: it cannot be executed.
        RuntimeUnavailable: no keeper can be run.

    Cancellation: kills the whole process tree, shielded and bounded. A killed peer does the same.
    """
    token = secrets.token_hex(16)
    command = Command(argv=argv, env={**env, keeper.TOKEN: token}, cwd=str(cwd), limits={"core": 0})
    output = Output(on_line)
    failure: RuntimeFailure | None = None
    async with KeeperLink() as link, trio.open_nursery() as nursery:
        child = link.new_child(token)
        nursery.start_soon(_follow, link, nursery.cancel_scope)
        read_end, write_end = os.pipe()
        async with trio.lowlevel.FdStream(read_end) as pipe:
            try:
                await link.spawn(child, command, write_end)
            except RuntimeFailure as exc:  # raised below: it would leave the nursery in a group
                failure = exc
            finally:
                os.close(write_end)
            if failure is None:
                nursery.start_soon(output.pump, pipe)
                await child.gone.wait()
                output.hurry()
                await output.ended.wait()  # every process that could write is gone
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    assert child.status is not None
    return Ended(child.status, output.tail())


async def _follow(link: KeeperLink, waiting: trio.CancelScope) -> None:
    """Serve the link; the end of the keeper is the end of what it held."""
    await link.run()
    waiting.cancel()
