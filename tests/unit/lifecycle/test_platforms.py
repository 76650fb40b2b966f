"""What each platform takes, and how it builds."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from peer.errors import PackageError
from peer.lifecycle import archive
from peer.lifecycle.platforms import PLATFORMS
from peer.lifecycle.platforms.platform import Code, Images, Recipe
from runtimes.api import PEER_ADDRESS, PEER_HOST, PEER_PORT, BuildFailed
from tests.unit.lifecycle.archives import member, tar_gz

IMAGES = Images(builder="b", golang="g", node="n", java="j", python="p", version="9")


def check(platform: str, *names: str, mode: int = 0o644) -> None:
    with archive.opened(tar_gz(member(name, mode=mode) for name in names)) as opened:
        PLATFORMS[platform].check(opened.entries)


@pytest.mark.parametrize(
    ("platform", "names"),
    [
        ("golang", ["src/main.go", "src/vendor/x/y.go", "META-INF/x"]),
        ("node", ["src/package.json", "src/index.js", "META-INF/x"]),
        ("java", ["src/src/main/java/X.java", "src/build.gradle", "src/settings.gradle"]),
        ("java", ["src/pom.xml", "src/META-INF/x", "META-INF/x"]),
        ("java", ["src/chaincode.jar"]),
        ("python", ["src/chaincode.py", "src/requirements.txt", "src/wheelhouse/x.whl"]),
        ("python", ["chaincode.py"]),
    ],
)
def test_names_that_are_taken(platform: str, names: list[str]) -> None:
    check(platform, *names)


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        ("golang", "main.go"),
        ("golang", "other/src/main.go"),
        ("golang", "./src/main.go"),
        ("golang", "srcx/main.go"),
        ("node", "package.json"),
        ("node", "x/src/package.json"),
        ("java", "src/README"),
        ("java", "src/src/X.class"),
        ("java", "src/lib/x.jar"),
        ("java", "pom.xml"),
    ],
)
def test_names_that_are_refused(platform: str, name: str) -> None:
    with pytest.raises(PackageError, match="illegal file detected in payload") as caught:
        check(platform, "src/package.json", name) if platform == "node" else check(platform, name)
    assert repr(name) in str(caught.value)


def test_node_needs_its_manifest() -> None:
    with pytest.raises(PackageError, match=r"no src/package\.json found"):
        check("node", "src/index.js")


@pytest.mark.parametrize(
    ("platform", "good", "bad"),
    [
        ("golang", 0o755, 0o1755),
        ("node", 0o666, 0o755),
        ("java", 0o666, 0o755),
        ("python", 0o777, 0o4755),
    ],
)
def test_modes(platform: str, good: int, bad: int) -> None:
    name = {"node": "src/package.json", "java": "src/pom.xml"}.get(platform, "src/x")
    check(platform, name, mode=good)
    with pytest.raises(PackageError, match=f"illegal file mode detected for file {name}: {bad:o}"):
        check(platform, name, mode=bad)


class Programs:
    """Takes down what a build would run."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, ...]] = []
        self.places: list[Path] = []
        self.env: Mapping[str, str] = {}

    async def __call__(self, *argv: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        self.runs.append(argv)
        self.places.append(cwd)
        self.env = env or {}


def code(directory: Path, *names: str, module: str = "") -> Code:
    source = directory / "src"
    for name in names:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return Code(source=source, names=frozenset(names), module=module)


@pytest.mark.parametrize(
    ("names", "module", "place", "mode", "target"),
    [
        (["go.mod"], "", "", "-mod=readonly", "."),
        (["go.mod"], "example.org/cc", "", "-mod=readonly", "example.org/cc"),
        (["go.mod", "vendor/x.go"], "example.org/cc/cmd", "", "-mod=vendor", "example.org/cc/cmd"),
        (["example.org/cc/go.mod"], "example.org/cc", "example.org/cc", "-mod=readonly", "."),
        (["cc/go.mod", "cc/vendor/x.go"], "cc", "cc", "-mod=vendor", "."),
        (["example.org/cc/main.go"], "example.org/cc", "", None, "example.org/cc"),
    ],
)
async def test_layouts_of_go(
    tmp_path: Path, names: list[str], module: str, place: str, mode: str | None, target: str
) -> None:
    run = Programs()
    made = code(tmp_path, *names, module=module)
    await PLATFORMS["golang"].build(made, tmp_path / "out", run)
    [argv] = run.runs
    options = [mode] if mode else []
    output = ["-buildvcs=false", "-o", str(tmp_path / "out" / "chaincode")]
    assert list(argv) == ["go", "build", *options, *output, target]
    assert run.places == [made.source / place]
    assert run.env["GO111MODULE"] == ("on" if mode else "off")
    if not mode:
        assert run.env["GOPATH"].split(":")[0] == str(tmp_path)
    recipe = PLATFORMS["golang"].recipe(made, IMAGES)
    assert recipe.offline == (mode != "-mod=readonly")
    assert f"cd {str(Path('/chaincode/input/src') / place).rstrip('/')}" in recipe.script
    assert recipe.script.endswith(f"-o /chaincode/output/chaincode {target}")
    assert (f" {mode} " in recipe.script) == bool(mode)


@pytest.mark.parametrize("module", ["-toolexec=evil", "../up", "a/../../b", "a b", "$(x)", "ä"])
async def test_modules_that_are_no_import_path(tmp_path: Path, module: str) -> None:
    made = code(tmp_path, "go.mod", module=module)
    with pytest.raises(BuildFailed, match="no import path"):
        await PLATFORMS["golang"].build(made, tmp_path / "out", Programs())
    with pytest.raises(BuildFailed, match="no import path"):
        PLATFORMS["golang"].recipe(made, IMAGES)


def test_go_is_linked_statically_unless_told_otherwise(tmp_path: Path) -> None:
    made = code(tmp_path, "go.mod")
    dynamic = Images(go_dynamic_link=True)
    assert "-linkmode external -extldflags" in PLATFORMS["golang"].recipe(made, IMAGES).script
    assert "-linkmode" not in PLATFORMS["golang"].recipe(made, dynamic).script


@pytest.mark.parametrize(
    ("names", "arguments", "offline"),
    [
        (["package.json"], "install --omit=dev --no-audit --no-fund --prefer-offline", False),
        (["package-lock.json"], "ci --omit=dev --no-audit --no-fund --prefer-offline", False),
        (["npm-shrinkwrap.json"], "ci --omit=dev --no-audit --no-fund --prefer-offline", False),
        (
            ["package-lock.json", "npm-cache/x"],
            "ci --omit=dev --no-audit --no-fund --offline --cache npm-cache",
            True,
        ),
    ],
)
async def test_installing_for_node(
    tmp_path: Path, names: list[str], arguments: str, offline: bool
) -> None:
    run = Programs()
    made = code(tmp_path, *names)
    await PLATFORMS["node"].build(made, tmp_path / "out", run)
    assert run.runs == [("npm", *arguments.split())]
    assert run.places == [made.source]
    recipe = PLATFORMS["node"].recipe(made, IMAGES)
    assert f"\nnpm {arguments}\n" in recipe.script
    assert recipe.offline == offline


@pytest.mark.parametrize(
    ("content", "others", "ready"),
    [
        ("{}", [], True),
        ('{"dependencies":{}}', [], True),
        ('{"dependencies":{"x":"1"}}', [], False),
        ('{"optionalDependencies":{"x":"1"}}', [], False),
        ('{"dependencies":{"x":"1"}}', ["node_modules/x.js"], True),
    ],
)
def test_node_code_that_is_ready(
    tmp_path: Path, content: str, others: list[str], ready: bool
) -> None:
    made = code(tmp_path, "package.json", *others)
    (made.source / "package.json").write_text(content)
    assert PLATFORMS["node"].is_ready(made) == ready


@pytest.mark.parametrize(("content", "reason"), [("{", "not JSON"), ("[]", "no JSON object")])
def test_a_manifest_that_is_none(tmp_path: Path, content: str, reason: str) -> None:
    made = code(tmp_path, "package.json")
    (made.source / "package.json").write_text(content)
    with pytest.raises(PackageError, match=reason):
        PLATFORMS["node"].is_ready(made)


@pytest.mark.parametrize(
    ("names", "arguments"),
    [
        (["requirements.txt"], "-r requirements.txt"),
        (
            ["requirements.txt", "wheelhouse/a-1.whl"],
            "--no-index --find-links wheelhouse -r requirements.txt",
        ),
        (
            [
                "wheelhouse/b-1.whl",
                "wheelhouse/a-1.whl",
                "wheelhouse/no wheel",
                "wheelhouse/c/d.whl",
            ],
            "--no-index --find-links wheelhouse wheelhouse/a-1.whl wheelhouse/b-1.whl",
        ),
        (["vendor/a-1.whl"], "--no-index --find-links vendor vendor/a-1.whl"),
    ],
)
async def test_installing_for_python(tmp_path: Path, names: list[str], arguments: str) -> None:
    run = Programs()
    made = code(tmp_path, "chaincode.py", *names)
    assert not PLATFORMS["python"].is_ready(made)
    await PLATFORMS["python"].build(made, tmp_path / "out", run)
    make, install = run.runs
    assert make[1:] == ("-m", "venv", "venv")
    assert install[0] == str(made.source / "venv" / "bin" / "python")
    assert " ".join(install).endswith(f"--no-compile {arguments}")
    recipe = PLATFORMS["python"].recipe(made, IMAGES)
    assert recipe.script.endswith(f"--no-compile {arguments}")
    assert recipe.offline == ("--no-index" in arguments)
    assert "exec venv/bin/python chaincode.py" in recipe.command[2]


def test_python_without_requirements(tmp_path: Path) -> None:
    made = code(tmp_path, "main.py", "vendor/module.py")
    assert PLATFORMS["python"].is_ready(made)
    recipe = PLATFORMS["python"].recipe(made, IMAGES)
    assert recipe.offline
    assert "venv" not in recipe.script
    assert "exec python3 main.py" in recipe.command[2]
    with pytest.raises(BuildFailed, match=r"neither chaincode\.py nor main\.py"):
        PLATFORMS["python"].recipe(code(tmp_path, "other.py"), IMAGES)


async def test_java_takes_the_only_jar(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    run = Programs()
    await PLATFORMS["java"].build(code(tmp_path, "my.jar"), tmp_path / "out", run)
    assert run.runs == []
    assert (tmp_path / "out" / "chaincode.jar").is_file()
    for names in ([], ["a.jar", "b.jar"]):
        with pytest.raises(BuildFailed, match="not one jar"):
            await PLATFORMS["java"].build(code(tmp_path, *names), tmp_path / "out", run)


@pytest.mark.parametrize(
    ("manifest", "tool", "jar"),
    [
        ("build.gradle", "gradle", "build/libs/chaincode.jar"),
        ("pom.xml", "mvn", "target/chaincode.jar"),
    ],
)
async def test_java_builders(tmp_path: Path, manifest: str, tool: str, jar: str) -> None:
    run = Programs()
    made = code(tmp_path, manifest)
    with pytest.raises(BuildFailed, match="made none of"):
        await PLATFORMS["java"].build(made, tmp_path / "out", run)
    code(tmp_path, jar)
    await PLATFORMS["java"].build(made, tmp_path / "out", run)
    assert [argv[0] for argv in run.runs] == [tool, tool]
    assert PLATFORMS["java"].is_ready(made)
    assert not PLATFORMS["java"].recipe(made, IMAGES).offline


def recipes(tmp_path: Path) -> list[Recipe]:
    sources = {
        "golang": ["go.mod"],
        "node": ["package.json"],
        "java": ["pom.xml"],
        "python": ["main.py", "requirements.txt"],
    }
    return [
        PLATFORMS[name].recipe(code(tmp_path, *files), IMAGES) for name, files in sources.items()
    ]


def test_every_script_is_a_script(tmp_path: Path) -> None:
    for recipe in recipes(tmp_path):
        for text in (recipe.script, *recipe.command[2:3]):
            subprocess.run(["/bin/sh", "-n"], input=text, text=True, check=True)
        assert sum(PEER_ADDRESS in word for word in recipe.command) == 1


def test_a_plan(tmp_path: Path) -> None:
    recipe = PLATFORMS["golang"].recipe(code(tmp_path, "go.mod"), IMAGES)
    plan = recipe.plan("golang", "9", lambda: b"code")
    assert (plan.builder, plan.runtime, plan.target) == ("b", "g", "/usr/local/bin")
    assert plan.script.endswith(recipe.script)
    assert plan.labels == {
        "org.hyperledger.fabric.chaincode.type": "GOLANG",
        "org.hyperledger.fabric.version": "9",
    }
    assert plan.env == {"CORE_CHAINCODE_BUILDLEVEL": "9"}
    assert plan.code() == b"code"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_probes_tell_whether_an_address_answers(tmp_path: Path, platform: str) -> None:
    names = {"node": "package.json", "python": "main.py"}.get(platform, "go.mod")
    probe = PLATFORMS[platform].recipe(code(tmp_path, names), IMAGES).probe
    if shutil.which(probe[0]) is None:
        pytest.skip(f"no {probe[0]} here")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = {PEER_HOST: "127.0.0.1", PEER_PORT: str(server.getsockname()[1])}
        argv = [address.get(word, word) for word in probe]
        assert subprocess.run(argv, check=False).returncode == 0
    refused = subprocess.run(argv, capture_output=True, check=False)
    assert refused.returncode == 1
    assert re.search(rb"refused|ECONNREFUSED", refused.stderr.splitlines()[-1])


async def test_a_program_that_came_alone_needs_no_compiler(tmp_path: Path) -> None:
    made, tools = code(tmp_path, "chaincode"), Programs()
    assert not PLATFORMS["golang"].is_ready(made), "packages keep no right to run"
    await PLATFORMS["golang"].build(made, tmp_path, tools)
    assert tools.runs == []
    assert PLATFORMS["golang"].is_ready(made)
    recipe = PLATFORMS["golang"].recipe(made, IMAGES)
    assert "go build" not in recipe.script
    assert recipe.offline
