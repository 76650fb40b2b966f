"""Archives of strangers."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from peer.errors import PackageError
from peer.lifecycle import archive
from tests.unit.lifecycle.archives import files, member, tar_gz, zeros


def unpack(data: bytes, target: Path) -> dict[str, bytes]:
    target.mkdir()
    with archive.opened(data) as opened:
        opened.extract(target)
    return {
        path.relative_to(target).as_posix(): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file()
    }


def refusal(data: bytes) -> str:
    with pytest.raises(PackageError) as caught, archive.opened(data):
        pass
    return str(caught.value)


def test_what_was_packed_is_unpacked(tmp_path: Path) -> None:
    contents = {"src/a.py": b"a", "src/deep/er/b": b"", "META-INF/x": bytes(1_000_000)}
    assert unpack(archive.pack(contents), tmp_path / "out") == contents


def test_equal_files_give_equal_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    os.utime(path, (1, 1))
    first = archive.pack({"b": path, "a": b"2"})
    os.utime(path, (2_000_000_000, 2_000_000_000))
    path.chmod(0o700)
    assert archive.pack({"a": b"2", "b": path}) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        headers = [(m.name, m.mode, m.uid, m.gid, m.mtime, m.uname) for m in tar]
    assert headers == [("a", 0o644, 500, 500, 0, ""), ("b", 0o644, 500, 500, 0, "")]


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "src/../../up", "a/..", "..", "//x"])
def test_names_that_lead_elsewhere(name: str) -> None:
    assert "lies outside" in refusal(tar_gz([member(name, b"x")]))


@pytest.mark.parametrize("name", ["a\nb", "a\x1bb", "back\\slash"])
def test_names_that_cannot_be_shown_or_stored(name: str) -> None:
    assert "name that not every system can store" in refusal(tar_gz([member(name, b"x")]))


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CONTTYPE,
        b"Z",
    ],
)
def test_neither_file_nor_directory(kind: bytes) -> None:
    data = tar_gz([member("src/x", type=kind, linkname="/etc/passwd")])
    assert "neither file nor directory" in refusal(data)


def test_a_sparse_file_has_no_size_to_rely_on() -> None:
    headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 15}
    content = b"0\n".ljust(512, b"\0")
    data = tar_gz([member("src/x", content, pax_headers=headers)])
    assert "neither file nor directory" in refusal(data)


def test_two_entries_of_one_name(tmp_path: Path) -> None:
    for other in ("src/x", "src//x", "./src/./x"):
        assert "twice" in refusal(tar_gz([member("src/x", b"good"), member(other, b"evil")]))
    below = tar_gz([member("src/x", b"file"), member("src/x/y", b"below")])
    with pytest.raises(PackageError, match="in the way"):
        unpack(below, tmp_path / "out")


def test_directories_are_taken_as_often_as_they_come(tmp_path: Path) -> None:
    directories = [member(name, type=tarfile.DIRTYPE) for name in (".", "src", "src", "src/.")]
    data = tar_gz([*directories, member("./src/x", b"content")])
    assert unpack(data, tmp_path / "out") == {"src/x": b"content"}


def test_only_the_right_to_execute_is_kept(tmp_path: Path) -> None:
    data = tar_gz([member("run", mode=0o4755), member("plain", mode=0o602)])
    unpack(data, tmp_path / "out")
    mask = os.umask(0)
    os.umask(mask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert modes == {"run": 0o755 & ~mask, "plain": 0o644 & ~mask}


def test_a_bomb_of_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 8 << 20)
    packed = zeros(9 << 20)
    assert len(packed) < 100_000
    assert "more than 8 MiB" in refusal(packed)


def test_a_bomb_of_many_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 10)
    assert "more than 10 entries" in refusal(files({f"src/{n}": b"" for n in range(11)}))
    with archive.opened(files({f"src/{n}": b"" for n in range(10)})) as opened:
        assert len(opened.entries) == 10


def test_a_bomb_in_a_header() -> None:
    headers = {"comment": "x" * (archive.MAX_HEADER_BYTES + 1)}
    assert "header" in refusal(tar_gz([member("src/x", pax_headers=headers)]))


def test_sizes_that_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    info = tarfile.TarInfo("src/x")
    info.size = archive.MAX_UNPACKED_BYTES + 1
    header = info.tobuf(tarfile.GNU_FORMAT)
    assert refusal(gzip.compress(header + bytes(1024)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no gzip",
        gzip.compress(b"no tar"),
        gzip.compress(b""),
        files({"src/x": bytes(2000)})[:-20],
        gzip.compress(gzip.decompress(files({"src/x": bytes(2000)}))[:1500]),
        files({"src/x": b"x"}) + b"behind it",
    ],
)
def test_no_archive(data: bytes) -> None:
    assert refusal(data)


def test_the_disk_is_not_the_archives_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(OSError, match="No space left"), archive.opened(files({"a": b""})):
        pass


NAMES = st.lists(st.sampled_from(["src", "..", ".", "", "a", "b.go", "/", "x\0y"]), max_size=5)
MEMBERS = st.lists(
    st.tuples(
        NAMES.map("/".join),
        st.binary(max_size=600),
        st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]),
        st.integers(0, 0o7777),
    ),
    max_size=6,
)


@given(MEMBERS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_nothing_is_ever_written_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, bytes, bytes, int]]
) -> None:
    """Whatever the entries: refused, or all of it is plain files and directories in its place."""
    base = tmp_path_factory.mktemp("base")
    data = tar_gz(
        member(
            name, content if kind == tarfile.REGTYPE else b"", type=kind, mode=mode, linkname="a"
        )
        for name, content, kind, mode in entries
    )
    with suppress(PackageError):
        unpack(data, base / "target")
    assert [path.name for path in base.iterdir()] == ["target"]
    for path in base.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        assert not mode & (stat.S_ISUID | stat.S_ISGID)


GOOD = gzip.decompress(files({"src/a": b"content" * 100, "src/b": b"more"}))


@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=8),
    st.integers(0, len(GOOD)),
)
@example([(124, 0x80)], len(GOOD))  # a size in base 256
@example([(124, 0xFF), (135, 0xFF)], len(GOOD))  # a negative one
@example([(156, ord("x"))], len(GOOD))  # extended header without sense
@example([(156, ord("L"))], len(GOOD))
@settings(deadline=None, max_examples=300)
def test_damage_is_refused_or_harmless(changes: list[tuple[int, int]], length: int) -> None:
    damaged = bytearray(GOOD)
    for at, value in changes:
        damaged[at] = value
    # Each header gets a right checksum again, or most changes would be found by that alone.
    for at in range(0, len(damaged) - 511, 512):
        block = damaged[at : at + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            damaged[at + 148 : at + 156] = b"%06o\0 " % sum(block)
    packed = gzip.compress(bytes(damaged[:length]), 1)
    with suppress(PackageError), archive.opened(packed) as opened:
        assert sum(len(opened.read(entry)) for entry in opened.entries) <= len(GOOD)
