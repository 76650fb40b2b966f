"""``dev`` as its user meets it: on a terminal, beside another one, from a script."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO

import pytest

from tests.engines.engine import Engine

from .commands import EXAMPLE, ROOT
from .pseudo_terminal import on_terminal

PROMPT = r"^assets> "


def environment(**extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CORE_", "FABRIC_"))}
    return {**kept, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}", **extra}


def dev(*args: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "peer", "dev", *args]


def scripted(
    *args: str | Path, lines: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``dev`` with its lines piped in."""
    return subprocess.run(
        dev(*args),
        input=lines,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def started(*args: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run ``dev`` with pipes; it ends with the context at the latest."""
    process = subprocess.Popen(
        dev(*args),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def read_until(word: str, file: IO[str]) -> None:
    for line in file:
        if word in line:
            return
    raise AssertionError(f"it ended before it said {word}")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the example that may be edited; no other process runs there."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "assets"))


def edit(code: Path, old: str, new: str) -> None:
    program = code / "chaincode.py"
    text = program.read_text()
    assert old in text
    program.write_text(text.replace(old, new, 1))


def running_in(directory: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == directory:
                found.append(process.name)
        except OSError:  # it has ended, or is another user's
            continue
    return found


def test_the_loop_of_an_author(code: Path) -> None:
    with on_terminal(*dev(code), env=environment()) as screen:
        echoed = screen.echoes
        screen.expect(r"start +assets +\S+/assets$")
        screen.expect(r"ready +assets +python in \d+ ms$")
        invoke, query = (
            screen.expect(rf"^  (CORE_\S+ CORE_\S+ python -m peer chaincode {verb} .+)$")[1]
            for verb in ("invoke", "query")
        )
        screen.expect(PROMPT)
        assert running_in(code)

        screen.type("invoke put k one\n")
        tx = screen.expect(r"^([0-9a-f]{8})  call +put +k one$")[1]
        screen.expect(rf"^{tx}  write +k +one$")
        screen.expect(rf"^{tx}  answer +200 +0 bytes  \(")
        screen.expect(rf"^{tx}  block +\d+ +VALID$")
        screen.expect(PROMPT)
        screen.type("query get k\n")
        screen.expect(r"read +k +one$")
        screen.expect(r"^one$")
        screen.expect(PROMPT)

        # Another terminal
        typed = 'query {"Args":["get",'
        screen.type(typed)
        screen.expect(re.escape(typed))
        data = Path(re.findall(r"CORE_PEER_FILESYSTEMPATH=(\S+)", invoke)[0])
        for line, args in ((invoke, ["put", "k", "two"]), (query, ["get", "k"])):
            line = line.replace('["F","ARG"]', json.dumps(args)).replace(
                "python", sys.executable, 1
            )
            done = subprocess.run(
                line, shell=True, env=environment(), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
        assert done.stdout == "two\n"
        screen.expect(r"write +k +two$")
        screen.expect(r"block +\d+ +VALID$")
        screen.expect(rf"^assets> {re.escape(typed)}")
        screen.type('"k"]}\n')
        screen.expect(r"^two$")

        # A change, and a mistake
        edit(code, "return value.decode()", "return f'new {value.decode()}'")
        screen.expect(r"change +chaincode\.py$")
        screen.expect(r"ready +assets +python in \d+ ms$")
        screen.type("query get k\n")
        screen.expect(r"^new two$")
        edit(code, "import json", "print('hello')\nimport jsonn")
        screen.expect(r"output +hello$")
        screen.expect(r"output +ModuleNotFoundError: No module named 'jsonn'$")
        screen.expect(r"failed +it ended before it was READY: exit code 1$")
        edit(code, "import jsonn", "import json")
        screen.expect(r"ready +assets +python in \d+ ms$")
        screen.type("query get k\n")
        screen.expect(r"^new two$")
        (code / "chaincode.py").rename(code / "elsewhere.py")
        screen.expect(r"failed +\S+/assets holds none of connection\.json, .*chaincode\.py")
        screen.expect(r"what ran before still answers$")
        screen.type("query get k\n")
        screen.expect(r"^new two$")
        screen.expect(PROMPT)

        # Completion, history
        screen.type("le\t\n")
        screen.expect(r"^k +two$")
        screen.expect(r"1 keys at height \d+$")
        screen.type("\x1b[A\n")
        screen.expect(r"1 keys at height \d+$")
        screen.type("nothing\n")
        screen.expect(r"^Error: there is no 'nothing'; try help$")
        screen.expect(PROMPT)

        screen.type("\x03")
        assert screen.ended() == 130
        assert screen.echoes == echoed
    assert running_in(code) == []
    assert not data.parent.exists()


def test_the_end_of_input_ends_it(code: Path) -> None:
    with on_terminal(*dev(code), env=environment()) as screen:
        screen.expect(PROMPT)
        screen.type("\x04")
        assert screen.ended() == 0
    assert running_in(code) == []


def test_a_change_ends_a_start_that_takes_long(code: Path) -> None:
    """The first program never registers; the second one does."""
    edit(
        code,
        "import json",
        "import time\nprint('waits', flush=True)\ntime.sleep(1000)\nimport json",
    )
    with on_terminal(*dev(code), env=environment()) as screen:
        screen.expect(r"output +waits$")
        edit(code, "time.sleep(1000)", "")
        screen.expect(r"change +chaincode\.py$")
        screen.expect(r"ready +assets")
        screen.expect(PROMPT)
        screen.type("restart\n")
        screen.expect(r"ready +assets")
        screen.expect(PROMPT)
        screen.type("\x03")
        assert screen.ended() == 130


def test_lines_that_are_piped_in(code: Path) -> None:
    lines = """
        # a comment
        invoke InitLedger
        query ReadAsset 'asset1'
        query {"function":"ReadAsset","Args":["asset9"]}
        invoke
        ledger owner~id(B"""
    done = scripted(code, "--name", "cars", lines=lines)
    assert done.returncode == 1
    asset, index = done.stdout.splitlines()
    assert json.loads(asset)["Owner"] == "Tomoko"
    assert index == r"owner~id(Brad, asset2)  \x00"
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 2
    assert errors[0].startswith("Error: status 404: the asset asset9 does not exist")
    assert errors[1] == "Error: which function? (try help)"
    assert "from another terminal" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


INIT = """
    async def init(self, stub: ChaincodeStub) -> None:
        await stub.put_state("begun with", stub.args[0])
        raise ChaincodeError("not yet")

    async def invoke(self"""


def test_what_is_kept_is_there_again_and_initialised_once(code: Path, tmp_path: Path) -> None:
    edit(code, "\n    async def invoke(self", INIT.replace('raise ChaincodeError("not yet")', ""))
    keep = ("--data", tmp_path / "kept", "--init", '{"Args":["x"]}')
    first = scripted(code, *keep, lines="invoke put k v\n")
    assert (first.returncode, first.stdout) == (0, ""), first.stderr
    assert re.search(r"write +begun with +x$", first.stderr, re.MULTILINE)
    second = scripted(code, *keep, lines="query get k\nledger b\n")
    assert (second.returncode, second.stdout) == (0, "v\nbegun with  x\n"), second.stderr
    assert not re.search(r"write", second.stderr)


def test_an_init_that_fails_is_tried_again_after_a_change(code: Path) -> None:
    edit(code, "\n    async def invoke(self", INIT)
    with on_terminal(*dev(code, "--init", "x"), env=environment()) as screen:
        screen.expect(r"failed +init +.*returned with failure: not yet$")
        screen.expect(PROMPT)
        screen.type("query get x\n")
        screen.expect(r"^Error: .* must call as init first$")
        edit(code, 'raise ChaincodeError("not yet")', "")
        screen.expect(r"ready +assets")
        screen.expect(r"write +begun with +x$")
        screen.expect(r"block +\d+ +VALID$")
        screen.type("query get 'begun with'\n")
        screen.expect(r"^x$")
        screen.type("\x03")
        assert screen.ended() == 130


def test_command_environment_collections_and_transient_data(code: Path, tmp_path: Path) -> None:
    collections = tmp_path / "collections.json"
    policy = {"name": "assetPrivateDetails", "policy": "OR('SampleOrg.member')"}
    collections.write_text(json.dumps([policy]))
    edit(
        code, "import json", "import os, sys\nprint(os.environ['COLOUR'], sys.argv[1])\nimport json"
    )
    (code / "chaincode.py").rename(code / "program")
    details = "eyJBcHByYWlzZWRWYWx1ZSI6NX0="
    done = scripted(
        code, "--command", f"{sys.executable} program --debug", "-e", "COLOUR=red",
        "--collections", collections,
        lines=f"""
            invoke InitLedger
            invoke PutPrivateDetails asset1 --transient '{{"details":"{details}"}}'
            query GetPrivateDetails asset1
        """,
    )  # fmt: skip
    assert re.search(r"output +red --debug$", done.stderr, re.MULTILINE)
    assert re.search(r"write +asset1 in assetPrivateDetails +\{", done.stderr), done.stderr
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["AppraisedValue"] == 5


@pytest.mark.parametrize(("number", "code_"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_while_it_waits_for_input(number: int, code_: int, code: Path) -> None:
    with started(code) as process:
        assert process.stderr is not None
        read_until("ready", process.stderr)
        process.send_signal(number)
        assert process.wait(60) == code_
    assert running_in(code) == []


def test_output_that_nobody_reads_ends_it_quietly(code: Path) -> None:
    """What is written next goes nowhere, and nothing else would end it."""
    with started(code) as process:
        assert process.stderr is not None
        assert process.stdin is not None
        read_until("ready", process.stderr)
        process.stderr.close()
        process.stdin.write("query get k\n")
        process.stdin.flush()
        assert process.wait(60) == 1
        assert process.stdout is not None
        assert process.stdout.read() == ""
    assert running_in(code) == []


@pytest.mark.parametrize("runtime", ["docker", "podman"])
def test_the_same_in_a_container(runtime: str, code: Path, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(f"{runtime}_engine")
    for library in (ROOT / "shim", ROOT / "proto" / "fabric_protos"):
        shutil.copytree(library, code / library.name)
    env = environment(
        CORE_VM_ENDPOINT=engine.endpoint, CORE_CHAINCODE_PYTHON_RUNTIME=engine.images["python"]
    )
    name = f"dev{secrets.token_hex(4)}"
    with on_terminal(*dev(code, "--runtime", runtime, "--name", name), env=env) as screen:
        screen.expect(rf"ready +{name} +python in \d+ ms$")
        screen.expect(rf"^{name}> ")
        screen.type("invoke put k one\n")
        screen.expect(r"block +\d+ +VALID$")
        edit(code, "return value.decode()", "return f'new {value.decode()}'")
        screen.expect(rf"ready +{name} +python in \d+ ms$")
        screen.type("query get k\n")
        screen.expect(r"^new one$")
        screen.type("\x03")
        assert screen.ended() == 130
    for left in ("/containers/json?all=1", "/images/json"):
        status, answer = engine.request("GET", left)
        assert status == 200
        assert name not in json.dumps(answer)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--env", "COLOUR"], "'COLOUR' is not NAME=VALUE"),
        (["--debugpy", "--command", "x"], "without --command"),
        (["--debugpy", "--runtime", "docker"], "--debugpy cannot reach into docker"),
        (["--debugpy=70000"], "70000 is not in the range"),
        (["--collections", "absent.json"], "'absent.json' does not exist"),
    ],
)
def test_wrong_usage(args: list[str], said: str, code: Path) -> None:
    done = scripted(code, *args, lines="")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


class Debugger:
    """As much of an editor's debugger as it takes to stop at a line (Debug Adapter Protocol)."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._file = self._socket.makefile("rb")
        self._numbers = count(1)

    def send(self, command: str, **arguments: object) -> None:
        message = {
            "seq": next(self._numbers),
            "type": "request",
            "command": command,
            "arguments": arguments,
        }
        body = json.dumps(message).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    def expect(self, what: str) -> dict[str, object]:
        """Wait for the event, or the answer to the command, of that name."""
        while True:
            length = int(self._file.readline().split(b":")[1])
            self._file.readline()
            message: dict[str, object] = json.loads(self._file.read(length))
            if what in (message.get("event"), message.get("command")):
                return message

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def test_a_program_at_a_breakpoint_has_time(code: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = code / "chaincode.py"
    line = program.read_text().splitlines().index("        value = await stub.get_state(key)") + 1
    env = environment(CORE_CHAINCODE_EXECUTETIMEOUT="1s")
    with on_terminal(*dev(code, f"--debugpy={port}"), env=env) as screen:
        screen.expect(rf"debuggers can connect at 127\.0\.0\.1:{port}")
        screen.expect(PROMPT)
        debugger = Debugger(port)
        debugger.send("initialize", adapterID="test", linesStartAt1=True)
        debugger.expect("initialize")
        debugger.send("attach", justMyCode=False)
        debugger.expect("initialized")
        debugger.send("setBreakpoints", source={"path": str(program)}, breakpoints=[{"line": line}])
        debugger.expect("setBreakpoints")
        debugger.send("configurationDone")
        debugger.expect("attach")
        screen.type("query get k\n")
        stopped = debugger.expect("stopped")["body"]
        assert isinstance(stopped, dict)
        assert stopped["reason"] == "breakpoint"
        time.sleep(3)  # no wait for something: the time that this is about
        debugger.send("continue", threadId=stopped["threadId"])
        screen.expect(r"^Error: status 404: there is no 'k'$")
        debugger.close()
        screen.expect(PROMPT)
        program.write_text(program.read_text() + "\n")
        screen.expect(r"ready +assets")  # and the port is free again
        screen.type("\x03")
        assert screen.ended() == 130
    assert running_in(code) == []
