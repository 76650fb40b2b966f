"""Where package files are kept."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from fabric_protos.codec import encode
from peer.errors import AlreadyInstalled, PackageError
from peer.lifecycle.store import PackageStore
from tests.unit.lifecycle.archives import files, package
from tests.unit.lifecycle.test_packages import spec

DATA = package(files({"src/chaincode.py": b"pass"}), label="a.b_1.0")
DIGEST = hashlib.sha256(DATA).hexdigest()
CCID = f"a.b_1.0:{DIGEST}"


def test_a_package_is_where_fabric_keeps_it(tmp_path: Path) -> None:
    saved, read = PackageStore(tmp_path).save(DATA)
    path = tmp_path / "lifecycle" / "chaincodes" / f"a.b_1.0.{DIGEST}.tar.gz"
    assert (saved.ccid, saved.path, read.ccid) == (CCID, path, CCID)
    assert path.read_bytes() == DATA
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    assert os.listdir(path.parent) == [path.name]


def test_a_deployment_spec_is_where_fabric_keeps_it(tmp_path: Path) -> None:
    data = encode(spec(name="cc", version="1.0.1"))
    saved, _ = PackageStore(tmp_path).save(data)
    assert (saved.ccid, saved.path) == ("cc:1.0.1", tmp_path / "chaincodes" / "cc.1.0.1")
    assert saved.path.read_bytes() == data


def test_packages_survive_a_restart(tmp_path: Path) -> None:
    first = PackageStore(tmp_path)
    assert first.list() == []
    first.save(DATA)
    first.save(encode(spec()))
    second = PackageStore(tmp_path)
    assert [found.ccid for found in second.list()] == [CCID, "my-cc:1.0"]
    assert second.find(CCID).read().label == "a.b_1.0"
    assert second.find("my-cc:1.0").read().type == "golang"
    second.delete(CCID)
    second.delete(CCID)
    assert [found.ccid for found in second.list()] == ["my-cc:1.0"]


def test_foreign_files_are_no_packages(tmp_path: Path) -> None:
    store = PackageStore(tmp_path)
    store.save(DATA)
    directory = tmp_path / "lifecycle" / "chaincodes"
    for name in ("README", f"x.{DIGEST[1:]}.tar.gz", f"x.{DIGEST.upper()}.tar.gz"):
        (directory / name).write_text("")
    (directory / f"directory.{DIGEST}.tar.gz").mkdir()
    assert [found.ccid for found in store.list()] == [CCID]


def test_what_a_killed_peer_left_is_removed(tmp_path: Path) -> None:
    PackageStore(tmp_path).save(DATA)
    part = tmp_path / "lifecycle" / "chaincodes" / ".ccpackage.abc"
    part.write_bytes(b"half")
    assert [found.ccid for found in PackageStore(tmp_path).list()] == [CCID]
    assert not part.exists()


def test_the_same_package_twice(tmp_path: Path) -> None:
    store = PackageStore(tmp_path)
    store.save(DATA)
    with pytest.raises(AlreadyInstalled) as caught:
        store.save(DATA)
    assert str(caught.value) == (f"chaincode already successfully installed (package ID '{CCID}')")


def test_another_spec_of_the_same_name_and_version(tmp_path: Path) -> None:
    store = PackageStore(tmp_path)
    store.save(encode(spec()))
    with pytest.raises(AlreadyInstalled):
        store.save(encode(spec()))
    with pytest.raises(PackageError, match="installed with other content") as caught:
        store.save(encode(spec(path="other")))
    assert type(caught.value) is PackageError
    assert store.find("my-cc:1.0").read().module == ""


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    store = PackageStore(tmp_path)
    saved, _ = store.save(DATA)
    saved.path.write_bytes(package(files({"src/evil.py": b""}), label="a.b_1.0"))
    with pytest.raises(PackageError, match="the file was changed"):
        store.find(CCID).read()
    store.save(DATA)
    assert store.find(CCID).read().ccid == CCID


@pytest.mark.parametrize(
    "ccid",
    [
        "",
        "cc",
        "cc:",
        ":1.0",
        "cc:1.0",
        f"x:{DIGEST}",
        f"../x:{DIGEST}",
        "../../etc:passwd",
        "a/b:1",
    ],
)
def test_what_is_not_installed(tmp_path: Path, ccid: str) -> None:
    with pytest.raises(PackageError, match="not found"):
        PackageStore(tmp_path).find(ccid)


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    store = PackageStore(tmp_path)
    found, _ = store.save(DATA)
    found.path.unlink()
    with pytest.raises(PackageError, match="not found"):
        found.read()


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store = PackageStore(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        store.save(DATA)
    assert os.listdir(tmp_path / "lifecycle" / "chaincodes") == []


def test_garbage_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(PackageError):
        PackageStore(tmp_path).save(b"\x1f\x8bno")
    assert list(tmp_path.rglob("*")) == []


def test_what_deployment_specs_are_is_known_again_after_a_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = PackageStore(tmp_path)
    store.save(encode(spec()))
    known = store.deployment("my-cc:1.0")
    assert known is not None
    assert (known.name, known.version) == ("my-cc", "1.0")
    (tmp_path / "chaincodes" / "broken.1").write_bytes(b"\xff")
    again = PackageStore(tmp_path)
    assert again.deployment("my-cc:1.0") == known
    assert again.deployment("broken:1") is None
    assert "chaincodes/broken.1 cannot be used: it is neither" in caplog.text
    again.delete("my-cc:1.0")
    assert again.deployment("my-cc:1.0") is None
