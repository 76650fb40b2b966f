"""The entry point of a chaincode program.

Room:      shim   (imports everything a start needs, and nothing else before it is needed)
Loop:      starts asyncio's
Lifetime:  the process
Fabric:    `Start`, shim/shim.go (fabric-chaincode-go)
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from .chaincode import Chaincode
from .errors import SetupError, StreamClosed
from .settings import Settings, read_settings

if TYPE_CHECKING:
    from .transport import Duplex
    from .workers import Workers


def start(
    chaincode: Chaincode,
    argv: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    *,
    workers: Workers | None = None,
) -> NoReturn:
    """Run a chaincode as a program: dial the peer, or listen, as flags and variables say.

    Blocks, and ends the process: status 0 after SIGTERM, 1 when the stream ended or could not be
    opened, 2 when the set-up is wrong, 130 after Ctrl-C. One line on standard error says why.

    Args:
        chaincode: what to run.
        argv: arguments without the program's name; the process's by default.
        env: the process's environment by default.
        workers: size of the thread pool, where the default does not fit.
    """
    env = os.environ if env is None else env
    try:
        settings = read_settings(sys.argv[1:] if argv is None else argv, env)
        _set_up_logging(env)
        asyncio.run(_serve(chaincode, settings, workers))
    except SetupError as exc:
        _leave(2, f"cannot start: {exc}")
    except StreamClosed as exc:
        _leave(1, str(exc))
    except KeyboardInterrupt:
        _leave(130, "interrupted")
    _leave(0)


async def start_in_process(
    chaincode: Chaincode, ccid: str, stream: Duplex, *, workers: Workers | None = None
) -> None:
    """Serve one peer on a stream that is already open, such as one of `memory_streams`.

    Raises:
        StreamClosed: the stream broke, or the peer refused the registration.

    Cancellation: ends the stream and its transactions.
    """
    from .handler import Handler

    await Handler(chaincode, ccid, stream, workers).run()


async def _serve(chaincode: Chaincode, settings: Settings, workers: Workers | None) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if settings.is_server:
        from .server import ChaincodeServer

        server = ChaincodeServer(
            settings.ccid, settings.address, chaincode, settings.tls, workers=workers
        )
        await server.serve(stop)
        return
    from .client import run_client

    await run_client(
        chaincode, settings.ccid, settings.address, settings.tls, workers=workers, stop=stop
    )
    if not stop.is_set():
        raise StreamClosed("the peer ended the stream")


def _set_up_logging(env: Mapping[str, str]) -> None:
    import logging

    if not logging.getLogger().handlers and not logging.getLogger("shim").handlers:
        from .logs import set_up_logging

        set_up_logging(env)


def _leave(status: int, text: str = "") -> NoReturn:
    if text:
        sys.stderr.write(f"chaincode: {text}\n")
    raise SystemExit(status)
