"""Open a peer, install a package, write and read with it, and say how that went, as JSON.

Room:      tests.integration.builds   (imports peer; a program of its own)
Loop:      Trio
Lifetime:  one run

``python install_and_ask.py PACKAGE DATA_DIRECTORY``. It runs where the network is cut off, so it
first switches the loopback device on, which a new network namespace has off.
"""

from __future__ import annotations

import fcntl
import json
import logging
import socket
import struct
import sys
from dataclasses import replace

import trio

from peer import PeerConfig, open_peer

IFF_UP = 1
SIOCSIFFLAGS = 0x8914


def switch_loopback_on() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


async def main(package: str, data: str) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    build_log = logging.getLogger("peer.lifecycle.build")
    build_log.addHandler(handler)
    build_log.setLevel(logging.INFO)
    config = PeerConfig()
    config = replace(config, peer=replace(config.peer, file_system_path=data))
    async with open_peer(config) as peer:
        installed = await peer.install(package)
        put = await peer.invoke("mychannel", installed.label, ["put", "key", "value"])
        got = await peer.query("mychannel", installed.label, ["get", "key"])
    answer = {
        "ccid": installed.ccid,
        "committed": put.committed,
        "value": got.payload.decode(),
        "lines": lines,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    switch_loopback_on()
    trio.run(main, *sys.argv[1:])
