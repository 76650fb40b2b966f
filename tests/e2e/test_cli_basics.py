"""The command line as its user meets it: processes, exit codes, both output streams."""

from __future__ import annotations

import json
import os
import platform
import pty
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FABRIC = ROOT / "tests" / "unit" / "config" / "fabric-3.1.yaml"
HEAVY = (
    "trio",
    "trio_asyncio",
    "grpclib",
    "betterproto2",
    "cryptography",
    "yaml",
    "rich",
)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CORE_", "FABRIC_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **(extra or {})}


def peer(*args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "peer", *args],
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_the_commands() -> None:
    done = peer("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: python -m peer ")
    assert re.search(r"^  config +Show the configuration", done.stdout, re.MULTILINE)
    assert re.search(r"^  version +Show the versions", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("args", [["--help"], ["version"], ["--version"]])
def test_help_and_version_import_nothing_heavy(args: list[str]) -> None:
    code = """
        import sys
        from peer.cli import run
        code = run(sys.argv[2:])
        print(*sorted(set(sys.argv[1].split(",")) & set(sys.modules)), file=sys.stderr)
        sys.exit(code)
    """
    done = python(code, ",".join(HEAVY), *args)
    assert (done.returncode, done.stderr) == (0, "\n")


def test_the_help_of_every_command_imports_nothing_heavy() -> None:
    """All in one process: what one of them imported would show in the end."""
    code = """
        import sys
        import click
        from peer.cli import cli, run

        def visit(command, names):
            assert run([*names, "--help"]) == 0
            if isinstance(command, click.Group):
                for name in command.list_commands(click.Context(command)):
                    visit(command.get_command(click.Context(command), name), [*names, name])

        visit(cli, [])
        print(*sorted(set(sys.argv[1].split(",")) & set(sys.modules)), file=sys.stderr)
    """
    done = python(code, ",".join(HEAVY))
    assert (done.returncode, done.stderr) == (0, "\n")
    assert done.stdout.count("Usage: triopeer ") > 40


def test_every_command_can_be_imported_and_has_the_help_of_the_list() -> None:
    code = """
        import click
        from peer.cli import LazyGroup, cli

        def visit(group):
            context = click.Context(group)
            assert group.get_command(context, "absent") is None
            for name in group.list_commands(context):
                command = group.get_command(context, name)
                assert command.name == name, name
                if isinstance(group, LazyGroup):
                    assert command.get_short_help_str(200) == group.lazy[name].help, name
                if isinstance(command, click.Group):
                    visit(command)

        visit(cli)
    """
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_version() -> None:
    done = peer("version")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "peer:"
    assert lines[1] == f" Version: {metadata.version('triopeer')}"
    assert lines[2] == " Commit SHA: development build"
    assert lines[3].startswith(f" Python version: {platform.python_version()} ")
    assert re.fullmatch(r" OS/Arch: linux/\w+", lines[4])
    assert lines[5:] == [
        " Chaincode:",
        "  Base Docker Label: org.hyperledger.fabric",
        "  Docker Namespace: hyperledger",
    ]
    assert peer("--version").stdout == f"triopeer {metadata.version('triopeer')}\n"


@pytest.mark.parametrize("args", [["nodes"], ["config", "show", "--al"], ["version", "extra"]])
def test_wrong_usage_is_2(args: list[str]) -> None:
    done = peer(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_config_show_tells_values_and_origins(tmp_path: Path) -> None:
    (tmp_path / "core.yaml").write_text("peer:\n  id: from-file\n  networkId: net\n")
    done = peer(
        "config",
        "show",
        env={"FABRIC_CFG_PATH": str(tmp_path), "CORE_PEER_NETWORKID": "from-env"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = dict(line.split("\t", 1) for line in done.stdout.splitlines())
    assert rows["peer.id"] == "from-file\tcore.yaml:2"
    assert rows["peer.networkId"] == "from-env\tCORE_PEER_NETWORKID"
    assert rows["chaincode.executetimeout"] == "30s\tdefault"
    assert rows["peer.tls.enabled"] == "false\tdefault"


def test_config_show_json_and_all() -> None:
    env = {"CORE_LEDGER_STATE_COUCHDBCONFIG_PASSWORD": "hunter2", "CORE_VM_PROCESS_A": "[1]"}
    brief = json.loads(peer("config", "show", "--json", "--config", str(FABRIC), env=env).stdout)
    assert brief["peer.maxRecvMsgSize"] == {
        "value": 104857600,
        "origin": "fabric-3.1.yaml:133",
        "used": True,
    }
    assert brief["vm.process.a"]["value"] == [1]
    assert all(row["used"] for row in brief.values())
    done = peer("config", "show", "--json", "--all", "--config", str(FABRIC), env=env)
    everything = json.loads(done.stdout)
    assert everything.items() > brief.items()
    assert everything["peer.gossip.pullPeerNum"] == {
        "value": 3,
        "origin": "fabric-3.1.yaml:27",
        "used": False,
    }
    assert everything["vm.docker.hostConfig.Memory"]["used"] is False
    assert "hunter2" not in done.stdout
    text = peer("config", "show", "--all", "--config", str(FABRIC)).stdout
    assert "peer.gossip.pullPeerNum\t3\tfabric-3.1.yaml:27 (accepted, not used)\n" in text


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_options_of_the_chosen_runtime_are_used(runtime: str) -> None:
    env = {"CORE_VM_RUNTIME": runtime}
    done = peer("config", "show", "--json", "--config", str(FABRIC), env=env)
    assert json.loads(done.stdout)["vm.docker.hostConfig.LogConfig"]["used"] is True


def on_terminal(*args: str, env: Mapping[str, str] | None = None) -> str:
    """Run a command that succeeds on a terminal and return what it wrote there, without colours."""
    near, far = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "peer", *args],
        env=environment({"COLUMNS": "200", "TERM": "xterm", **(env or {})}),
        stdout=far,
        stderr=far,
    )
    os.close(far)
    shown = b""
    try:
        while chunk := os.read(near, 4096):
            shown += chunk
    except OSError:  # Linux says EIO when the far end is closed
        pass
    finally:
        os.close(near)
        assert process.wait(timeout=60) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())


def test_config_show_is_a_table_on_a_terminal() -> None:
    text = on_terminal("config", "show", env={"CORE_PEER_ID": "[bold]me"})
    assert re.search(r"^key +value +from *\r$", text, re.MULTILINE)
    assert re.search(r"^peer\.id +\[bold\]me +CORE_PEER_ID *\r$", text, re.MULTILINE)


@pytest.fixture
def slow(tmp_path: Path) -> str:
    """A chaincode for the demo that takes its time."""
    code = (ROOT / "examples" / "asset_transfer" / "chaincode.py").read_text()
    waits = "import time\nprint('warming up', flush=True)\ntime.sleep(1)\nimport json\n"
    (tmp_path / "chaincode.py").write_text(code.replace("import json\n", waits, 1))
    return str(tmp_path)


def test_a_slow_launch_is_shown_on_a_terminal_until_it_is_over(slow: str) -> None:
    text = on_terminal("demo", "--chaincode", slow)
    assert re.search(r"\r\x1b\[2Kassets: connect, 0\.\d s: warming up", text)
    seen = [line.rpartition("\r\x1b[2K")[2] for line in text.split("\r\n")]
    assert not [line for line in seen if "warming up" in line]
    assert "closed  no process, socket or file is left" in seen[-2]


def test_a_slow_launch_is_in_the_log_where_there_is_no_terminal(slow: str) -> None:
    done = peer("demo", "--verbose", "--chaincode", slow)
    assert done.returncode == 0
    assert re.search(r"INFO +peer\.cli: assets: connect, 0\.\d s: warming up\n", done.stderr)
    assert "warming up" not in done.stdout


@pytest.mark.parametrize(
    ("args", "lines"), [(["demo"], 0), (["demo"], 1), (["demo"], 6), (["config", "show"], 0)]
)
def test_output_that_nobody_reads_ends_the_program_quietly(args: list[str], lines: int) -> None:
    """The demo's sixth line is that of a launch: its callbacks are who cannot print any more."""
    near, far = os.pipe()
    with open(near, "rb", buffering=0) as reader:
        if not lines:
            reader.close()
        process = subprocess.Popen(
            [sys.executable, "-m", "peer", *args],
            env=environment(),
            stdout=far,
            stderr=subprocess.PIPE,
        )
        os.close(far)
        for _ in range(lines):
            reader.readline()
    _, said = process.communicate(timeout=60)
    assert (said, process.returncode) == (b"", 1)


def test_a_replaced_value_is_a_warning_on_standard_error() -> None:
    done = peer("config", "show", env={"CORE_CHAINCODE_EXECUTETIMEOUT": "1ms"})
    assert done.returncode == 0
    assert "chaincode.executetimeout\t30s\tCORE_CHAINCODE_EXECUTETIMEOUT\n" in done.stdout
    assert done.stderr == (
        "Warning: environment: CORE_CHAINCODE_EXECUTETIMEOUT: "
        "1ms is below the least value 1s; 30s is used\n"
    )


def test_a_bad_configuration_is_2_with_all_problems(tmp_path: Path) -> None:
    path = tmp_path / "core.yaml"
    path.write_text("chaincode:\n  executetimout: 3s\n")
    env = {"CORE_PEER_TLS_ENABLED": "perhaps"}
    done = peer("config", "show", "--config", str(path), env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "Error: the configuration cannot be used:",
        f"  {path}:2: chaincode.executetimout: unknown key; did you mean chaincode.executetimeout?",
        "  environment: CORE_PEER_TLS_ENABLED: expected true or false, got 'perhaps'",
    ]


def test_the_examples_of_the_configuration_page() -> None:
    document = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```console\n\$ (.+)\n((?:.+\n)+)```$", document, re.MULTILINE)
    assert len(examples) == 2
    for command, output in examples:
        done = subprocess.run(
            ["sh", "-c", command.replace("python ", f"{sys.executable} ")],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout == output


FAILING = """
    import sys
    import click
    from peer import cli, errors

    @click.command()
    def fail():
        raise eval(sys.argv[1])

    cli.cli.get_command = lambda ctx, name: fail
    sys.exit(cli.run(["fail"]))
"""


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        ("errors.StartError('cc:1', 'no such file')", 1, "Error: could not launch chaincode cc:1"),
        ("errors.PackageError('no code')", 1, "Error: no code\n"),
        ("errors.ConfigError(['a', 'b'])", 2, "cannot be used:\n  a\n  b\n"),
        ("KeyboardInterrupt()", 130, ""),
        ("click.Abort()", 130, ""),
        ("click.ClickException('no')", 1, "Error: no\n"),
    ],
)
def test_exit_codes_of_failures(error: str, code: int, text: str) -> None:
    done = python(FAILING, error)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_shows_its_trace() -> None:
    done = python(FAILING, "AssertionError('bug')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_control_c_ends_with_130() -> None:
    code = """
        import signal, sys, click
        from peer import cli

        @click.command()
        def wait():
            print("waiting", flush=True)
            signal.pause()

        cli.cli.get_command = lambda ctx, name: wait
        sys.exit(cli.run(["wait"]))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment(), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130


def test_a_reader_that_leaves_early_is_told_nothing() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "peer", "config", "show"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
