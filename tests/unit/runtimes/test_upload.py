"""The archive of uploaded files."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.upload import pack_files

FILES = {
    "/etc/hyperledger/fabric/peer.crt": b"certificate",
    "/etc/hyperledger/fabric/client.key": b"k" * 513,
    "/empty": b"",
}


def members(archive: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return tar.getmembers()


def header(archive: bytes, number: int = 0) -> bytes:
    return gzip.decompress(archive)[512 * number : 512 * (number + 1)]


def test_names_are_absolute_and_headers_bare() -> None:
    for member in members(pack_files(FILES)):
        assert member.isfile()
        assert (member.uid, member.gid, member.mtime, member.uname, member.gname) == (
            0,
            0,
            0,
            "",
            "",
        )
    archive = pack_files({"/etc/x": b"1"})
    assert header(archive)[:7] == b"/etc/x\0"
    assert header(archive)[100:108] == b"0100644\0"


def test_equal_files_give_equal_bytes_in_any_order() -> None:
    assert pack_files(FILES) == pack_files(dict(reversed(FILES.items())))


def test_a_path_that_is_not_absolute_is_refused() -> None:
    with pytest.raises(ValueError, match="'etc/x' is not an absolute path"):
        pack_files({"etc/x": b""})


paths = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=150
).map("/d/".__add__)


@given(st.dictionaries(paths, st.binary(max_size=2000), max_size=5))
def test_what_is_packed_is_what_comes_out(files: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=io.BytesIO(pack_files(files)), mode="r:gz") as tar:
        unpacked = {}
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            unpacked[member.name] = content.read()
    assert unpacked == files
