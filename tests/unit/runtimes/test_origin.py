"""Looking up a connection in the kernel's tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtimes import origin
from runtimes.api import TcpOrigin, UnixOrigin
from runtimes.origin import SocketOwner, connecting_socket, owner_uid

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
V4_ROW = (
    "   1: 0100007F:D431 0100007F:1B8C 01 00000000:00000000 00:00000000 00000000"
    "  1000        0 98765 1 0000000000000000 20 4 30 10 -1\n"
)
MAPPED_ROW = V4_ROW.replace("0100007F", "0000000000000000FFFF00000100007F").replace(
    "98765", "43210"
)
V6_ROW = V4_ROW.replace("0100007F", "00000000000000000000000001000000").replace("98765", "11111")
CLOSED_ROW = V4_ROW.replace("98765", "0")
V4 = TcpOrigin(remote=("127.0.0.1", 0xD431), local=("127.0.0.1", 0x1B8C))
V6 = TcpOrigin(remote=("::1", 0xD431), local=("::1%lo", 0x1B8C))
MAPPED = TcpOrigin(remote=("::ffff:127.0.0.1", 0xD431), local=("127.0.0.1", 0x1B8C))


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    pair = (tmp_path / "tcp", tmp_path / "tcp6")
    monkeypatch.setattr(origin, "_TABLES", pair)
    return pair


@pytest.mark.parametrize(
    ("tcp", "tcp6", "asked", "inode"),
    [
        (V4_ROW, "", V4, 98765),
        (V4_ROW, "", MAPPED, 98765),
        ("", MAPPED_ROW, V4, 43210),
        ("", V6_ROW, V6, 11111),
    ],
)
def test_a_connection_is_found_in_either_table(
    tables: tuple[Path, Path], tcp: str, tcp6: str, asked: TcpOrigin, inode: int
) -> None:
    for path, rows in zip(tables, (tcp, tcp6), strict=True):
        path.write_text(HEAD + rows)
    assert connecting_socket(asked) == SocketOwner(uid=1000, inode=inode)
    assert owner_uid(asked) == 1000


def test_the_accepting_end_is_not_taken_for_the_connecting_one(tables: tuple[Path, Path]) -> None:
    for path in tables:
        path.write_text(HEAD + V4_ROW)
    assert connecting_socket(TcpOrigin(remote=V4.local, local=V4.remote)) is None


def test_a_closed_connection_has_no_owner(tables: tuple[Path, Path]) -> None:
    tables[0].write_text(HEAD + CLOSED_ROW)
    assert connecting_socket(V4) is None


def test_a_kernel_without_ipv6_has_no_second_table(tables: tuple[Path, Path]) -> None:
    tables[0].write_text(HEAD)
    assert connecting_socket(V4) is None
    assert owner_uid(V4) is None


def test_a_unix_origin_carries_its_user() -> None:
    assert owner_uid(UnixOrigin(pid=1, uid=501)) == 501
