"""Packages from strangers: what is taken, what is refused, and that a refusal leaves nothing."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peer.chaincode.connections import ChaincodeServerInfo
from peer.errors import PackageError
from peer.lifecycle import archives, packages
from peer.lifecycle.packages import PackageStore, StartedByHand
from runtimes.api import ChaincodePackage
from tests.integration.peer.packing import archive, package

CODE = {"src/chaincode.py": b"print('hello')\n"}
METADATA = json.dumps({"type": "python", "label": "label_1.0", "path": ""}).encode()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> PackageStore:
    return PackageStore(home)


@pytest.fixture
def refused(store: PackageStore, home: Path, tmp_path: Path) -> Callable[[bytes], str]:
    """Install bytes as a package, expect the refusal and return its text."""
    outside = tmp_path / "outside.txt"
    outside.write_text("as it was")

    def install(data: bytes) -> str:
        path = tmp_path / "package.tar.gz"
        path.write_bytes(data)
        with pytest.raises(PackageError) as caught:
            store.install(path)
        assert type(caught.value) is PackageError
        assert outside.read_text() == "as it was"
        assert sorted(item.name for item in tmp_path.iterdir() if item != home) == [
            "outside.txt",
            "package.tar.gz",
        ]
        assert list(home.rglob("*")) == []
        return str(caught.value)

    return install


def member(name: str, kind: bytes = tarfile.REGTYPE, *, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def test_a_package_is_unpacked_once_and_found(
    store: PackageStore, home: Path, tmp_path: Path
) -> None:
    data = package(archive(CODE))
    path = tmp_path / "any.name"
    path.write_bytes(data)
    installed = store.install(path)
    digest = hashlib.sha256(data).hexdigest()
    assert (installed.ccid, installed.label) == (f"label_1.0:{digest}", "label_1.0")
    assert (installed.path / "chaincode.py").read_bytes() == CODE["src/chaincode.py"]
    assert store.install(path) == installed
    assert PackageStore(home).install(path) == installed
    found = store.find(installed.ccid)
    assert found == ChaincodePackage(ccid=installed.ccid, type="python", path=installed.path)


def test_the_type_is_lower_case_and_the_label_of_a_package_is_its_own(
    store: PackageStore, tmp_path: Path
) -> None:
    path = tmp_path / "package.tar.gz"
    path.write_bytes(package(archive(CODE), kind="GOLANG"))
    assert store.install(path, "another").type == "golang"
    assert store.install(path, "another").label == "label_1.0"


def test_what_is_not_installed(store: PackageStore, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="'nothing:1' not found"):
        store.find("nothing:1")
    with pytest.raises(PackageError, match="there is no package or directory"):
        store.install(tmp_path / "absent")
    with pytest.raises(PackageError, match="there is no package or directory"):
        store.install(Path("/dev/null"))


@pytest.mark.parametrize(
    "name",
    ["../outside.txt", "src/../../outside.txt", "../../../../../../../../tmp/outside.txt"],
)
def test_a_path_out_of_the_package(refused: Callable[[bytes], str], name: str) -> None:
    assert name in refused(package(archive({**CODE, name: b"changed"})))


def test_an_absolute_path_to_a_file(refused: Callable[[bytes], str], tmp_path: Path) -> None:
    """Python's filter would take off the leading slash; nobody honest writes one."""
    name = str(tmp_path / "outside.txt")
    assert name in refused(package(archive({**CODE, name: b"changed"})))


@pytest.mark.parametrize(
    "link",
    [
        member("src/link", tarfile.SYMTYPE, target="../../outside.txt"),
        member("src/link", tarfile.SYMTYPE, target="/etc/passwd"),
        member("src/link", tarfile.SYMTYPE, target="chaincode.py"),
        member("src/link", tarfile.LNKTYPE, target="../../../outside.txt"),
        member("src/link", tarfile.LNKTYPE, target="src/chaincode.py"),
        member("src/fifo", tarfile.FIFOTYPE),
        member("src/device", tarfile.CHRTYPE),
        member("src/disk", tarfile.BLKTYPE),
        member("src/sparse", tarfile.GNUTYPE_SPARSE),
    ],
    ids=[
        "symlink out",
        "symlink away",
        "symlink",
        "hardlink out",
        "hardlink",
        "fifo",
        "char",
        "block",
        "sparse",
    ],
)
@pytest.mark.parametrize("where", ["code", "package"])
def test_links_and_devices(
    refused: Callable[[bytes], str], link: tarfile.TarInfo, where: str
) -> None:
    if where == "code":
        assert f"{link.name} is neither file nor directory" in refused(package(archive(CODE, link)))
    else:
        parts = {"metadata.json": METADATA, "code.tar.gz": archive(CODE)}
        assert f"{link.name} is not a regular file" in refused(archive(parts, link))


def test_a_directory_in_the_place_of_a_file(refused: Callable[[bytes], str]) -> None:
    code = archive({**CODE, "src/chaincode.py/inner": b""})
    assert "cannot be installed" in refused(package(code))


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    for module in (archives, packages):
        monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 1_000_000)
    return 1_000_000


def test_more_code_than_allowed(refused: Callable[[bytes], str], small_limit: int) -> None:
    """Many files that are small each."""
    files = {f"src/{number}": bytes(100_000) for number in range(11)}
    assert "holds more than 1000000 bytes" in refused(package(archive(files)))


def test_a_part_larger_than_allowed(refused: Callable[[bytes], str], small_limit: int) -> None:
    noise = os.urandom(small_limit + 1)  # so that even packed it is too much
    assert "is larger than 1000000 bytes" in refused(package(archive({"src/noise": noise})))


def test_a_size_in_the_header_is_not_trusted_with_memory(
    refused: Callable[[bytes], str], small_limit: int
) -> None:
    """A header that promises more than follows, and one that promises what nobody has."""
    for size in (500_000, 2**60):
        huge = member("code.tar.gz")
        huge.size = size
        data = gzip.compress(huge.tobuf(tarfile.GNU_FORMAT))
        assert "is not a chaincode package" in refused(data)


def test_a_header_that_wants_to_be_held_in_memory(refused: Callable[[bytes], str]) -> None:
    """A long name of ten megabytes is ten kilobytes packed."""
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        header = member("long", kind)
        header.size = 10_000_000
        data = gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(header.size))
        assert "one header holds more than 1048576 bytes" in refused(data)
        assert "one header holds more than 1048576 bytes" in refused(package(data))


def test_a_bomb_of_gzip(refused: Callable[[bytes], str], small_limit: int) -> None:
    """A thousand times its size once unpacked, without any valid member."""
    assert "is not a chaincode package" in refused(gzip.compress(b"\x01" * 50_000_000))


def test_a_bomb_of_many_entries(
    refused: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries without content cost no bytes, but a file each."""
    monkeypatch.setattr(archives, "MAX_ENTRIES", 100)
    files = {f"src/{number}": b"" for number in range(101)}
    assert "more than 100 entries" in refused(package(archive(files)))
    parts = {f"{number}.txt": b"" for number in range(101)}
    assert "more than 100 entries" in refused(archive(parts))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is not a chaincode package"),
        (b"not gzip", "is not a chaincode package"),
        (gzip.compress(b"not tar"), "is not a chaincode package"),
        (package(archive(CODE))[:-200], "is not a chaincode package"),
        (archive({}), "did not find metadata.json"),
        (archive({"metadata.json": METADATA}), "did not find code.tar.gz"),
        (archive({"code.tar.gz": archive(CODE)}), "did not find metadata.json"),
        (package(b""), "cannot be unpacked: no valid .tar.gz"),
        (package(b"not gzip"), "cannot be unpacked: no valid .tar.gz"),
        (package(archive(CODE)[:-30]), "cannot be unpacked: no valid .tar.gz"),
        (package(archive({})), "cannot be unpacked: it is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_missing_and_broken_parts(refused: Callable[[bytes], str], data: bytes, why: str) -> None:
    assert why in refused(data)


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        (b"", "is not a chaincode package"),
        (b"\xff", "is not a chaincode package"),
        (b"{", "is not a chaincode package"),
        (b"[" * 100_000, "is not a chaincode package"),
        (b"[]", "metadata.json"),
        (b"null", "metadata.json"),
        (b'"text"', "metadata.json"),
        (b'{"type": "python"}', "no text under 'label'"),
        (b'{"label": "label"}', "no text under 'type'"),
        (b'{"type": "python", "label": 7}', "label"),
        (b'{"type": "python", "label": null}', "label"),
        (b'{"type": ["python"], "label": "label"}', "type"),
        (b'{"type": "", "label": "label"}', "type"),
    ],
    ids=lambda value: value.decode(errors="replace")[:30] if isinstance(value, bytes) else "",
)
def test_wrong_metadata(refused: Callable[[bytes], str], metadata: bytes, why: str) -> None:
    parts = {"metadata.json": metadata, "code.tar.gz": archive(CODE)}
    assert why in refused(archive(parts))


BAD_LABELS = ["", ".hidden", "-flag", "a/b", "../a", "a:b", "a b", "ä", "a\n", "a\0b", "x" * 300]


@pytest.mark.parametrize("label", BAD_LABELS, ids=repr)
def test_bad_labels(refused: Callable[[bytes], str], label: str) -> None:
    assert "label" in refused(package(archive(CODE), label=label))


def test_an_unpacking_that_was_killed_half_way_is_done_again(
    store: PackageStore, home: Path, tmp_path: Path
) -> None:
    data = package(archive(CODE))
    leftover = home / f"label_1.0.{hashlib.sha256(data).hexdigest()}.part" / "src" / "half"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("of a file")
    path = tmp_path / "package.tar.gz"
    path.write_bytes(data)
    installed = store.install(path)
    assert [item.name for item in installed.path.iterdir()] == ["chaincode.py"]


@pytest.mark.parametrize(
    ("marker", "kind"),
    [
        ("connection.json", "ccaas"),
        ("package.json", "node"),
        ("chaincode", "golang"),
        ("chaincode.jar", "java"),
        ("chaincode.py", "python"),
        ("main.py", "python"),
    ],
)
def test_a_directory_runs_where_it_stands(
    store: PackageStore, tmp_path: Path, marker: str, kind: str
) -> None:
    source = tmp_path / "my code!"
    source.mkdir()
    (source / marker).write_text("{}")
    installed = store.install(source)
    assert (installed.label, installed.type, installed.path) == ("my-code-", kind, source)
    assert store.install(source, "label").label == "label"
    for label in BAD_LABELS[1:]:
        with pytest.raises(PackageError, match="label"):
            store.install(source, label)


def test_the_id_of_a_directory_follows_names_and_contents(
    store: PackageStore, tmp_path: Path
) -> None:
    def ccid() -> str:
        return store.install(tmp_path, "label").ccid

    (tmp_path / "chaincode.py").write_text("1")
    ids = {ccid()}
    assert ccid() in ids
    for junk in ("node_modules", "__pycache__", ".git", "venv"):
        (tmp_path / junk).mkdir()
        (tmp_path / junk / "file").write_text("junk")
    assert ccid() in ids
    (tmp_path / "chaincode.py").write_text("2")
    ids.add(ccid())
    (tmp_path / "more.py").write_text("")
    ids.add(ccid())
    (tmp_path / "more.py").rename(tmp_path / "less.py")
    ids.add(ccid())
    assert len(ids) == 4


def test_a_directory_that_cannot_be_read(store: PackageStore, tmp_path: Path) -> None:
    (tmp_path / "chaincode.py").write_text("")
    (tmp_path / "socket").symlink_to("/nowhere")  # dangling: no file
    store.install(tmp_path, "label")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(PackageError, match=r"holds none of .*connection\.json.*chaincode\.py"):
        store.install(empty)


def test_a_service_is_found_by_its_address(store: PackageStore, tmp_path: Path) -> None:
    (tmp_path / "connection.json").write_text('{"address": "somewhere:9999"}')
    installed = store.install(tmp_path, "service")
    found = store.find(installed.ccid)
    assert found == ChaincodeServerInfo(ccid=installed.ccid, address="somewhere:9999")
    assert StartedByHand(store).find(installed.ccid) == found
    (tmp_path / "connection.json").unlink()
    with pytest.raises(PackageError, match=r"connection\.json"):
        store.find(installed.ccid)


def test_development_mode_finds_no_code_to_start(store: PackageStore, tmp_path: Path) -> None:
    (tmp_path / "chaincode.py").write_text("")
    installed = store.install(tmp_path, "label")
    with pytest.raises(PackageError, match=f"CORE_CHAINCODE_ID_NAME={installed.ccid}"):
        StartedByHand(store).find(installed.ccid)
    with pytest.raises(PackageError, match="not found"):
        StartedByHand(store).find("nothing:1")


def test_a_package_of_a_service(store: PackageStore, tmp_path: Path) -> None:
    path = tmp_path / "package.tar.gz"
    path.write_bytes(package(archive({"connection.json": b'{"address":"a:1"}'}), kind="ccaas"))
    found = store.find(store.install(path).ccid)
    assert isinstance(found, ChaincodeServerInfo)
    assert found.address == "a:1"
