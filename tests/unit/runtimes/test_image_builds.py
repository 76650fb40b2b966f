"""How an image is made, and which ones are removed, on an engine in memory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from runtimes.api import BuildFailed, ChaincodePackage, RuntimeUnavailable
from runtimes.containers import building
from runtimes.containers.engine import EngineRefused, Image, PullFailed
from runtimes.containers.session import CCID, LOCKED_BY, PEER, SESSION
from tests.contract.containers import FakeEngineHarness
from tests.contract.harness import SERVES
from tests.fakes.engine import FakeContainer

PEER_LABEL = "dev.peer0"


@pytest.fixture
def harness(tmp_path: Path) -> FakeEngineHarness:
    return FakeEngineHarness(tmp_path)


def images(harness: FakeEngineHarness) -> set[str]:
    """Return the packages that there are images of."""
    return {image.labels[CCID] for image in harness.engine.images_by_name.values()}


async def test_an_unchanged_package_is_not_built_again(harness: FakeEngineHarness) -> None:
    engine = harness.engine
    package = harness.spec(SERVES).package
    assert package.image is not None
    async with harness.open() as backend:
        await backend.build(package)
        await backend.build(package)
        await backend.build(replace(package, image=replace(package.image, command=("other",))))
        assert engine.calls.count("commit") == 1
        former = next(iter(engine.images_by_name.values()))
        changed = replace(package, image=replace(package.image, script="other"))
        await backend.build(changed)
        assert engine.removed_images == [former.id]
        engine.failures["remove_image"] = EngineRefused(500, "no")
        await backend.build(package)
        assert engine.calls.count("commit") == 3
        assert not harness.left()


async def test_one_builds_and_the_others_wait(harness: FakeEngineHarness) -> None:
    async with harness.open() as backend:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(backend.build, harness.spec(SERVES).package)
        assert harness.engine.calls.count("commit") == 1


async def test_a_build_that_fails_shows_its_output(harness: FakeEngineHarness) -> None:
    package = harness.spec(SERVES).package
    harness.engine.build_lines, harness.engine.build_code = ("step 1", "step 2"), 7
    async with harness.open() as backend:
        with pytest.raises(BuildFailed, match=r"its build ended: exit code 7\nstep 1\nstep 2$"):
            await backend.build(package)
        assert harness.lines == [("asset:1.0", "step 1"), ("asset:1.0", "step 2")]
        harness.engine.build_code = 137
        with pytest.raises(BuildFailed, match="its build ended: killed by signal 9"):
            await backend.build(package)
        assert not harness.left()
        assert not images(harness)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("create", "cannot use base: disk full"),
        ("fill", "cannot be built in base: disk full"),
        ("start", "cannot be built in base: disk full"),
        ("fetch", "its build left nothing in /chaincode/output: disk full"),
        ("commit", "cannot be made from base: disk full"),
    ],
)
async def test_a_step_that_fails_leaves_nothing(
    harness: FakeEngineHarness, step: str, text: str
) -> None:
    async with harness.open() as backend:
        harness.engine.failures[step] = EngineRefused(500, "disk full")
        with pytest.raises(BuildFailed, match=rf"{text} \(status 500\)"):
            await backend.build(harness.spec(SERVES).package)
        assert not harness.left()
        harness.engine.failures[step] = RuntimeUnavailable("gone")
        with pytest.raises(RuntimeUnavailable, match="gone"):
            await backend.build(harness.spec(SERVES).package)
        assert not harness.left()
        assert not images(harness)


async def test_a_container_that_could_not_be_removed_is_removed_by_the_next_build(
    harness: FakeEngineHarness,
) -> None:
    async with harness.open() as backend:
        harness.engine.failures["fill"] = EngineRefused(500, "disk full")
        harness.engine.failures["remove"] = RuntimeUnavailable("disk full")
        with pytest.raises(BuildFailed, match="disk full"):
            await backend.build(harness.spec(SERVES).package)
        assert len(harness.left()) == 1
        await backend.build(harness.spec(SERVES).package)
        assert not harness.left()


async def test_a_missing_image_is_pulled(harness: FakeEngineHarness) -> None:
    harness.engine.missing.add("base")
    harness.engine.failures["pull"] = PullFailed("no such host")
    async with harness.open() as backend:
        with pytest.raises(BuildFailed, match="cannot use base: no such host"):
            await backend.build(harness.spec(SERVES).package)
        await backend.build(harness.spec(SERVES).package)
        assert harness.engine.calls.count("pull") == 2
        assert not harness.left()


async def test_what_disappears_meanwhile_is_told(harness: FakeEngineHarness) -> None:
    async with harness.open() as backend:

        async def nothing(name: str) -> None:
            await trio.lowlevel.checkpoint()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(harness.engine, "wait", nothing)
            with pytest.raises(BuildFailed, match="somebody removed the container of its build"):
                await backend.build(harness.spec(SERVES).package)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(harness.engine, "image", nothing)
            with pytest.raises(BuildFailed, match="was removed as soon as it was made"):
                await backend.build(harness.spec(SERVES).package)


async def test_a_package_without_an_image(harness: FakeEngineHarness) -> None:
    package = harness.spec(SERVES).package
    async with harness.open() as backend:
        with pytest.raises(BuildFailed, match="no image of chaincode type golang"):
            await backend.build(replace(package, image=None))
        harness.engine.failures["image"] = EngineRefused(500, "sick")
        with pytest.raises(BuildFailed, match="docker image inspection failed: sick"):
            await backend.build(package)


async def test_code_that_cannot_be_read(harness: FakeEngineHarness) -> None:
    def gone() -> bytes:
        raise OSError(2, "No such file or directory")

    package = harness.spec(SERVES).package
    assert package.image is not None
    async with harness.open() as backend:
        with pytest.raises(BuildFailed, match="No such file or directory"):
            await backend.build(replace(package, image=replace(package.image, code=gone)))
        assert not harness.left()


async def test_the_container_of_a_build(harness: FakeEngineHarness) -> None:
    package = harness.spec(SERVES).package
    assert package.image is not None
    made: list[FakeContainer] = []
    start = harness.engine.start

    async def spied(name: str) -> None:
        made.append(harness.engine.containers_by_name[name])
        await start(name)

    async with harness.open() as backend:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(harness.engine, "start", spied)
            await backend.build(package)
            online = replace(package.image, offline=False, build_env={"A": "b"})
            await backend.build(replace(package, image=online))
        first, second = made
        assert first.config["HostConfig"] == {"NetworkMode": "none"}
        assert first.config["Entrypoint"][:2] == ["/bin/sh", "-c"]
        assert first.files.keys() == {"/chaincode/input"}
        assert CCID not in first.config["Labels"]  # no chaincode's container
        assert first.config["Labels"][PEER] == PEER_LABEL
        assert second.config["HostConfig"] == {}
        assert second.config["Env"] == ["A=b"]


def tree(*members: tuple[str, bytes, Callable[[tarfile.TarInfo], None]]) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content, change in members:
            member = tarfile.TarInfo(name)
            member.size, member.uid, member.uname = len(content), 500, "chaincode"
            change(member)
            tar.addfile(member, io.BytesIO(content))
    packed.seek(0)
    return packed


def test_output_moves_to_its_place() -> None:
    def directory(member: tarfile.TarInfo) -> None:
        member.type, member.mode = tarfile.DIRTYPE, 0o700

    def program(member: tarfile.TarInfo) -> None:
        member.mode = 0o755

    def hard_link(member: tarfile.TarInfo) -> None:
        member.type, member.linkname = tarfile.LNKTYPE, "output/bin/run"

    def symbolic_link(member: tarfile.TarInfo) -> None:
        member.type, member.linkname = tarfile.SYMTYPE, "../elsewhere"

    long = "d" * 120
    output = tree(
        ("output", b"", directory),
        ("output/bin/run", b"#!", program),
        ("output/hard", b"", hard_link),
        ("output/soft", b"", symbolic_link),
        (f"output/{long}", b"x", program),
    )
    contents = io.BytesIO()
    building._move(output, contents, "/usr/local/src")
    assert len(contents.getvalue()) < tarfile.RECORDSIZE  # no padding
    with tarfile.open(fileobj=contents) as tar:
        found = {member.name: member for member in tar}
        assert tar.extractfile(f"usr/local/src/{long}").read() == b"x"  # type: ignore[union-attr]  # it is a file
    assert {member.uid for member in found.values()} == {0}
    assert {member.uname for member in found.values()} == {""}
    assert found["usr/local/src"].mode == 0o755
    assert found["usr/local/src/bin/run"].mode == 0o755
    assert found["usr/local/src/hard"].linkname == "usr/local/src/bin/run"
    assert found["usr/local/src/soft"].linkname == "../elsewhere"


def placed(harness: FakeEngineHarness, ccid: str) -> ChaincodePackage:
    return harness.spec(SERVES, ccid).package


async def test_images_go_with_their_packages(harness: FakeEngineHarness) -> None:
    async with harness.open() as backend:
        for ccid in ("a:1", "b:1", "c:1"):
            await backend.build(placed(harness, ccid))
        await backend.start(harness.spec(SERVES, "c:1"))
        await backend.prune({"a:1"})
        assert images(harness) == {"a:1", "c:1"}  # that of a running chaincode stays
        await backend.build(placed(harness, "b:1"))
        assert images(harness) == {"a:1", "b:1", "c:1"}


async def test_images_of_another_live_peer_of_that_name_stay(
    harness: FakeEngineHarness, tmp_path: Path
) -> None:
    def image(**labels: str) -> Image:
        return Image(id=f"of {labels[CCID]}", user="", labels={PEER: PEER_LABEL, **labels})

    async with harness.open() as backend:
        engine = harness.engine
        elsewhere = {SESSION: "x", LOCKED_BY: "another-host:/lock"}
        engine.images_by_name = {
            "elsewhere": image(**{CCID: "elsewhere:1", **elsewhere}),
            "ended": image(
                **{CCID: "ended:1", **backend._session.labels, SESSION: "the one before"}
            ),
        }
        engine.failures["remove_image"] = EngineRefused(500, "no")
        await backend.prune(set())
        assert images(harness) == {"elsewhere:1", "ended:1"}
        await backend.prune(set())
        assert images(harness) == {"elsewhere:1"}
        engine.failures["images"] = EngineRefused(500, "sick")
        with pytest.raises(RuntimeUnavailable, match="cannot be listed: sick"):
            await backend.prune(set())


@pytest.mark.parametrize("leftovers", ["remove", "keep"])
async def test_what_a_killed_peer_left(tmp_path: Path, leftovers: str) -> None:
    harness = FakeEngineHarness(tmp_path, {"leftovers": leftovers})
    async with harness.open() as backend:
        labels = {**backend._session.labels, SESSION: "the one before"}
    for name, ccid in (("dev-peer0-a-1", {CCID: "a:1"}), ("triopeer-build-x", {})):
        config = {"Labels": {**labels, **ccid}}
        harness.engine.containers_by_name[name] = FakeContainer(name, config)
    async with harness.open() as backend:
        left = set(harness.engine.containers_by_name)
        assert left == ({"dev-peer0-a-1"} if leftovers == "keep" else set())
        await backend.prune({"a:1"})
        assert set(harness.engine.containers_by_name) == left
        if leftovers == "keep":
            former = harness.engine.containers_by_name["dev-peer0-a-1"]
            await backend.start(harness.spec(SERVES, "a:1"))  # the next launch replaces it
            assert former.removed
            assert len(harness.left()) == 1
        await backend.prune(set())
        assert len(harness.left()) == (leftovers == "keep")  # it runs
    assert not harness.left()


async def test_a_kept_container_goes_with_its_package(tmp_path: Path) -> None:
    harness = FakeEngineHarness(tmp_path, {"leftovers": "keep"})
    async with harness.open() as backend:
        labels = {**backend._session.labels, SESSION: "the one before", CCID: "a:1"}
        name = "dev-peer0-a-1"
        harness.engine.containers_by_name[name] = FakeContainer(name, {"Labels": labels})
        await backend.prune(set())
        assert not harness.left()
