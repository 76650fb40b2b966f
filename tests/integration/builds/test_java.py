"""Java, from a package with a jar and from one that Maven builds.

The official library is not fetched for this: the program says how it was started, and ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from peer.errors import InstanceExited
from peer.lifecycle.packages import pack
from tests.chaincodes.prepare import STEP_LIMIT_S
from tests.integration.builds.workshop import peer_at, written
from tests.integration.peer.scene import CHANNEL

PROGRAM = """\
public class Main {
    public static void main(String[] words) {
        System.out.println(String.join(" ", words));
        System.exit(3);
    }
}
"""
POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>org.example</groupId><artifactId>chaincode</artifactId><version>1</version>
  <properties>
    <maven.compiler.source>11</maven.compiler.source>
    <maven.compiler.target>11</maven.compiler.target>
  </properties>
  <build>
    <finalName>chaincode</finalName>
    <plugins><plugin><artifactId>maven-jar-plugin</artifactId><configuration><archive>
      <manifest><mainClass>Main</mainClass></manifest>
    </archive></configuration></plugin></plugins>
  </build>
</project>
"""


def run(*command: str, cwd: Path) -> None:
    """Run a tool of the language; where it is missing, or finds no network, the test is skipped."""
    reason = "not installed"
    if shutil.which(command[0]) is not None:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=STEP_LIMIT_S, check=False
        )
        if done.returncode == 0:
            return
        reason = (done.stdout + done.stderr)[-500:]
    if "java" in os.environ.get("PEER_TEST_REQUIRE", "").split(","):
        pytest.fail(f"{command[0]}: {reason}", pytrace=False)
    pytest.skip(f"{command[0]}: {reason}")


def with_jar(directory: Path) -> None:
    work = directory.parent / "work"
    work.mkdir()
    (work / "Main.java").write_text(PROGRAM)
    run("javac", "Main.java", cwd=work)
    run(
        "jar",
        "--create",
        "--file",
        f"{directory}/any.jar",
        "--main-class=Main",
        "Main.class",
        cwd=work,
    )


def with_maven(directory: Path) -> None:
    main = directory / "src" / "main" / "java" / "Main.java"
    main.parent.mkdir(parents=True)
    main.write_text(PROGRAM)
    (directory / "pom.xml").write_text(POM)
    run("mvn", "-B", "-q", "package", cwd=directory)  # fetches its plugins
    shutil.rmtree(directory / "target")


@pytest.mark.parametrize("fill", [with_jar, with_maven])
async def test_from_package_to_program(fill: object, tmp_path: Path) -> None:
    assert callable(fill)
    source = tmp_path / "code"
    source.mkdir()
    fill(source)
    package = written(tmp_path / "package", pack(source, "java", "java_1"))
    async with peer_at(tmp_path / "data") as peer:
        installed = await peer.install(package)
        with pytest.raises(InstanceExited) as caught:
            await peer.query(CHANNEL, "java_1", ["noop"])
    assert installed.type == "java"
    assert caught.value.evidence is not None
    address = caught.value.evidence.address
    assert caught.value.evidence.output == (f"--peerAddress {address}",)
