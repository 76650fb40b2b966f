"""Package files: lifecycle v2, deployment specs, what they say and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fabric_protos.codec import encode
from fabric_protos.common import ChannelHeader, Envelope, Header, HeaderType, Payload
from fabric_protos.protos import (
    ChaincodeDeploymentSpec,
    ChaincodeId,
    ChaincodeSpec,
    ChaincodeSpecType,
    Endorsement,
    SignedChaincodeDeploymentSpec,
)
from peer.errors import PackageError
from peer.lifecycle import archive
from peer.lifecycle.legacy import read_deployment
from peer.lifecycle.packages import MAX_METADATA_BYTES, pack, read_package
from tests.unit.lifecycle.archives import files, member, package, tar_gz

INDEX = "META-INF/statedb/couchdb/indexes/owner.json"
GOOD_INDEX = b'{"index":{"fields":["owner"]},"ddoc":"d","name":"n","type":"json"}'
CODE = files({"src/main.py": b"pass", INDEX: GOOD_INDEX})


def test_everything_a_package_says() -> None:
    data = package(CODE, label="basic_1.0", kind="GOLANG", path="example.org/cc")
    read = read_package(data)
    assert read.ccid == f"basic_1.0:{hashlib.sha256(data).hexdigest()}"
    assert (read.label, read.type, read.module) == ("basic_1.0", "golang", "example.org/cc")
    assert json.loads(read.metadata)["type"] == "GOLANG"  # an external builder sees the original
    assert read.code == CODE
    assert read.indexes == {INDEX: GOOD_INDEX}


@pytest.mark.parametrize(
    "label", ["", ".a", "-a", "_a", "a b", "a/b", "a:b", "ä", "a\n", "../up", "+"]
)
def test_labels_fabric_refuses(label: str) -> None:
    with pytest.raises(PackageError, match="invalid label"):
        read_package(package(CODE, label=label))


@pytest.mark.parametrize("label", ["a", "0", "Basic_1.0+x-y", "a.", "a--b"])
def test_labels_fabric_takes(label: str) -> None:
    assert read_package(package(CODE, label=label)).label == label


METADATA = b'{"type":"golang","path":"","label":"l"}'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no archive"),
        (files({}), "did not find a code package inside the package"),
        (files({"metadata.json": METADATA}), "did not find a code package"),
        (files({"code.tar.gz": CODE}), r"missing metadata\.json"),
        (files({"./metadata.json": METADATA, "code.tar.gz": CODE}), r"missing metadata\.json"),
        (
            tar_gz([member(".", type=b"5"), member("metadata.json", METADATA)]),
            "is not a regular file",
        ),
        (files({"metadata.json": b"{", "code.tar.gz": CODE}), "could not unmarshal"),
        (files({"metadata.json": b"[" * 99_999, "code.tar.gz": CODE}), "could not unmarshal"),
        (files({"metadata.json": b"[]", "code.tar.gz": CODE}), "no JSON object"),
        (
            files({"metadata.json": b'{"label":7,"type":""}', "code.tar.gz": CODE}),
            "must be text",
        ),
        (
            files({"metadata.json": b" " * (MAX_METADATA_BYTES + 1), "code.tar.gz": CODE}),
            "larger than 1024 KiB",
        ),
        (package(b"no code"), "no archive"),
        (package(files({"../x": b""})), "lies outside"),
    ],
)
def test_packages_that_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PackageError, match=reason):
        read_package(data)


def test_other_files_are_passed_over() -> None:
    more = files({"README": b"hello", "metadata.json": METADATA, "code.tar.gz": CODE})
    assert read_package(more).label == "l"


@pytest.mark.parametrize(
    "name",
    [
        "META-INF/other.json",
        "META-INF/statedb/couchdb/indexes/sub/x.json",
        "META-INF/statedb/couchdb/indexes/x.txt",
        "META-INF/statedb/couchdb/collections/a b/indexes/x.json",
        "META-INF/statedb/couchdb/collections/indexes/x.json",
    ],
)
def test_only_indexes_belong_into_meta_inf(name: str) -> None:
    with pytest.raises(PackageError, match=r"metadata file path must begin with"):
        read_package(package(files({name: GOOD_INDEX})))


def test_places_of_indexes() -> None:
    names = [INDEX, "META-INF/statedb/couchdb/collections/my-coll_1/indexes/x.json"]
    hidden = {"META-INF/.DS_Store": b"", "META-INF/statedb/couchdb/indexes/.swp": b"x"}
    code = files(dict.fromkeys(names, GOOD_INDEX) | hidden)
    assert sorted(read_package(package(code)).indexes) == sorted(names)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not a valid JSON"),
        ("[]", "no JSON object"),
        ("{}", "array of fields"),
        ('{"index":[]}', "array of fields"),
        ('{"index":{"fields":"owner"}}', "array of fields"),
        ('{"index":{"fields":[]}}', "no fields"),
        ('{"index":{"fields":[7]}}', "neither a name"),
        ('{"index":{"fields":[{"a":"asc","b":"asc"}]}}', "neither a name"),
        ('{"index":{"fields":[{"a":"upwards"}]}}', "neither a name"),
        ('{"index":{"fields":[{"a":1}]}}', "neither a name"),
        ('{"index":{"fields":["a"],"more":1}}', "unknown key index.more"),
        ('{"index":{"fields":["a"],"partial_filter_selector":[]}}', "partial_filter_selector"),
        ('{"index":{"fields":["a"]},"more":1}', "unknown key more"),
        ('{"index":{"fields":["a"]},"ddoc":1}', "ddoc is no text"),
        ('{"index":{"fields":["a"]},"name":{}}', "name is no text"),
        ('{"index":{"fields":["a"]},"type":"text"}', "type must be json"),
    ],
)
def test_indexes_that_are_refused(content: str, reason: str) -> None:
    with pytest.raises(PackageError, match=reason) as caught:
        read_package(package(files({INDEX: content.encode()})))
    assert INDEX in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        '{"index":{"fields":["a","b.c"]}}',
        '{"index":{"fields":[{"a":"asc"},{"b":"DESC"}],"partial_filter_selector":{"s":{}}}}',
    ],
)
def test_indexes_that_are_taken(content: str) -> None:
    read = read_package(package(files({INDEX: content.encode()})))
    assert read.indexes == {INDEX: content.encode()}


def test_packing_a_directory(tmp_path: Path) -> None:
    (tmp_path / "chaincode.py").write_text("pass")
    for unwanted in ("node_modules/x", "__pycache__/y", ".git/z", "venv/bin/python"):
        (tmp_path / unwanted).parent.mkdir(parents=True)
        (tmp_path / unwanted).write_text("")
    (tmp_path / INDEX).parent.mkdir(parents=True)
    (tmp_path / INDEX).write_bytes(GOOD_INDEX)
    (tmp_path / "link.py").symlink_to("chaincode.py")
    (tmp_path / "nowhere").symlink_to("nothing")
    read = read_package(pack(tmp_path, "python", "mine", module="m"))
    assert (read.label, read.type, read.module) == ("mine", "python", "m")
    assert read.indexes == {INDEX: GOOD_INDEX}
    with archive.opened(read.code) as opened:
        names = [entry.name for entry in opened.entries]
    assert names == [INDEX, "src/chaincode.py", "src/link.py"]


def test_packing_what_would_be_refused(tmp_path: Path) -> None:
    (tmp_path / INDEX).parent.mkdir(parents=True)
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(PackageError, match="array of fields"):
        pack(tmp_path, "python", "mine")
    with pytest.raises(PackageError, match="invalid label"):
        pack(tmp_path, "python", "not mine")


def test_a_service_lies_at_the_top(tmp_path: Path) -> None:
    (tmp_path / "connection.json").write_text("{}")
    with archive.opened(read_package(pack(tmp_path, "ccaas", "s")).code) as opened:
        assert [entry.name for entry in opened.entries] == ["connection.json"]


@pytest.mark.parametrize("key", ["bundleDependencies", "bundledDependencies", "none"])
def test_bundled_libraries_of_node_are_code(tmp_path: Path, key: str) -> None:
    (tmp_path / "package.json").write_text(json.dumps({key: ["lib"]}))
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "lib.js").write_text("")
    with archive.opened(read_package(pack(tmp_path, "node", "n")).code) as opened:
        bundled = any("node_modules" in entry.name for entry in opened.entries)
    assert bundled == (key != "none")


def spec(**identity: str) -> ChaincodeDeploymentSpec:
    return ChaincodeDeploymentSpec(
        chaincode_spec=ChaincodeSpec(
            type=ChaincodeSpecType.GOLANG,
            chaincode_id=ChaincodeId(**{"name": "my-cc", "version": "1.0", **identity}),
        ),
        code_package=CODE,
    )


def signed(inner: bytes, kind: HeaderType = HeaderType.CHAINCODE_PACKAGE) -> bytes:
    channel_header = encode(ChannelHeader(type=kind))
    owned = SignedChaincodeDeploymentSpec(
        chaincode_deployment_spec=inner,
        instantiation_policy=b"policy",
        owner_endorsements=[Endorsement(endorser=b"owner", signature=b"signature")],
    )
    payload = Payload(header=Header(channel_header=channel_header), data=encode(owned))
    return encode(Envelope(payload=encode(payload), signature=b""))


@pytest.mark.parametrize("wrap", [bytes, signed])
def test_a_deployment_spec(wrap: type[bytes]) -> None:
    read = read_deployment(wrap(encode(spec(path="github.com/me/cc"))))
    assert (read.ccid, read.label) == ("my-cc:1.0", "my-cc")
    assert (read.type, read.module) == ("golang", "github.com/me/cc")
    assert read.code == CODE
    assert read.indexes == {INDEX: GOOD_INDEX}
    assert json.loads(read.metadata) == {
        "path": "github.com/me/cc",
        "type": "GOLANG",
        "label": "my-cc",
    }


def test_a_deployment_spec_without_code_has_nothing_to_check() -> None:
    empty = spec()
    empty.code_package = b""
    assert read_deployment(encode(empty)).code == b""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "neither a deployment spec nor a signed one"),
        (b"\xff\xff", "neither a deployment spec"),
        (encode(ChaincodeDeploymentSpec(code_package=CODE)), "neither a deployment spec"),
        (signed(b""), "neither a deployment spec"),
        (signed(encode(spec()), HeaderType.MESSAGE), "neither a deployment spec"),
        (encode(Envelope(payload=encode(Payload(data=b"x")))), "neither a deployment spec"),
        (encode(spec())[:-10], "neither a deployment spec"),
        (encode(spec(name="../up")), "invalid chaincode name"),
        (encode(spec(name="")), "invalid chaincode name"),
        (encode(spec(version="../../etc")), "invalid chaincode version"),
        (encode(spec(version="")), "invalid chaincode version"),
    ],
)
def test_deployment_specs_that_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PackageError, match=reason):
        read_deployment(data)
