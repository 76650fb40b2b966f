"""What a chaincode must be able to do on a peer, as cases that know neither peer nor library.

Room:      tests.integration   (imports fabric_protos and pytest; no peer, no chaincode library)
Loop:      any; a case awaits only its driver
Lifetime:  one case

The chaincode is that of tests/chaincodes/README.md, whose table gives the exact results expected
here. A case leaves its keys behind: each uses names of its own, so the order does not matter.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from fabric_protos.msp import SerializedIdentity
from tests.integration.driver import Case, NoResponse, Site, encoded, payload, refused

MIB = 1024 * 1024

CASES: list[Case] = []


def case(
    *, only: Sequence[str] = (), **faults: str
) -> Callable[[Callable[[Site], Awaitable[None]]], Callable[[Site], Awaitable[None]]]:
    """Add the decorated coroutine function to `CASES`; keywords name faulty libraries."""

    def add(run: Callable[[Site], Awaitable[None]]) -> Callable[[Site], Awaitable[None]]:
        CASES.append(Case(run, frozenset(only) or None, faults))
        return run

    return add


def cases_for(library: str) -> list[Any]:
    """Return the cases that concern `library` as pytest parameters, known faults marked."""
    return [
        pytest.param(
            each,
            id=each.name,
            marks=[
                pytest.mark.xfail(
                    reason=each.faults[library], raises=(AssertionError, NoResponse), strict=True
                )
            ]
            if library in each.faults
            else [],
        )
        for each in CASES
        if each.only is None or library in each.only
    ]


@case()
async def nothing(site: Site) -> None:
    result = await site.invoke("noop")
    assert (payload(result), result.event) == (b"", None)


@case()
async def put_and_get(site: Site) -> None:
    assert await site.submit("put", "put", "value") == b""
    assert await site.evaluate("get", "put") == b"value"
    await site.submit("put", "put", "another")
    assert await site.evaluate("get", "put") == b"another"


@case()
async def get_missing(site: Site) -> None:
    assert await site.evaluate("get", "missing") == b""


@case()
async def get_again_and_again(site: Site) -> None:
    await site.submit("put", "again", "value")
    assert await site.evaluate("gets", "100", "again") == b"value"


@case()
async def delete(site: Site) -> None:
    await site.submit("put", "delete", "value")
    assert await site.submit("del", "delete") == b""
    assert await site.evaluate("get", "delete") == b""


@case()
async def put_of_nothing_deletes(site: Site) -> None:
    await site.submit("put", "emptied", "value")
    await site.submit("put", "emptied", "")
    assert await site.evaluate("range", "emptied", "emptied~") == b"[]"


@case()
async def query_commits_nothing(site: Site) -> None:
    assert await site.evaluate("put", "queried", "value") == b""
    assert await site.evaluate("get", "queried") == b""


@case(official_python="decodes every argument, and offers no other way to them")
async def binary_value(site: Site) -> None:
    await site.submit("put", "binary", bytes(range(256)))
    assert await site.evaluate("get", "binary") == bytes(range(256))


@case()
async def unicode_key(site: Site) -> None:
    await site.submit("put", "schlüssel-鍵-🔑", "wert")
    assert await site.evaluate("get", "schlüssel-鍵-🔑") == b"wert"


@case()
async def short_range(site: Site) -> None:
    for key, value in [("span-b", '<"&">'), ("span-a", "é\n"), ("span-c", "c")]:
        await site.submit("put", key, value)
    records = await site.evaluate("range", "span-a", "span-c")
    assert records.decode() == r'[["span-a","é\n"],["span-b","<\"&\">"]]'


@case(official_python="an empty start key is sent as it is and sweeps up composite keys")
async def range_from_the_start(site: Site) -> None:
    await site.submit("composite_put", "0", "a", "b", "composite")
    await site.submit("put", "0a", "x")
    await site.submit("put", "0b", "y")
    assert await site.evaluate("range", "", "1") == b'[["0a","x"],["0b","y"]]'


@case(
    node="refuses, but iterating over the rejected promise loses the text",
    official_python="a start key in the composite namespace is not refused",
)
async def range_over_composite_keys(site: Site) -> None:
    result = await site.query("range", "\0a", "b")
    assert "first character of the key [\0a] contains a null character" in refused(result)


@case()
async def long_range(site: Site) -> None:
    """The peer answers in batches of 100: none, just one, one and a bit, two and a half."""
    assert await site.submit("fill", "250") == b"250"
    for end, count in [("k099", 99), ("k100", 100), ("k101", 101), ("k200", 200), ("k999", 250)]:
        expected = {"count": count, "first": "k000", "last": f"k{count - 1:03}"}
        assert await site.evaluate("range", "k000", end) == compact(expected)
    assert await site.evaluate("range", "k500", "k999") == b"[]"


@case(official_python="number and bookmark of a page are not handed to the caller")
async def pages(site: Site) -> None:
    await site.submit("fill", "250")
    bookmark = ""
    for first, count, following in [(0, 100, "k100"), (100, 100, "k200"), (200, 50, "")]:
        page = await site.evaluate("range_page", "k000", "k999", "100", bookmark)
        assert page == compact(
            {
                "count": count,
                "first": f"k{first:03}",
                "last": f"k{first + count - 1:03}",
                "fetched": count,
                "bookmark": following,
            }
        )
        bookmark = following


@case(official_python="number and bookmark of a page are not handed to the caller")
async def large_page(site: Site) -> None:
    """A page comes in one message even beyond the 100 records of a batch."""
    await site.submit("fill", "250")
    page = json.loads(await site.evaluate("range_page", "k000", "k999", "201", ""))
    assert page == {
        "count": 201,
        "first": "k000",
        "last": "k200",
        "fetched": 201,
        "bookmark": "k201",
    }


@case(official_python="an ERROR of the peer is taken for success")
async def write_after_page(site: Site) -> None:
    result = await site.invoke("page_then_put", "paged", "value")
    assert "Writes are not allowed" in refused(result)


@case()
async def composite_keys(site: Site) -> None:
    for a, b, value in [("blue", "m2", "2"), ("blue", "m1", "1"), ("bluer", "m3", "3")]:
        await site.submit("composite_put", "color~name", a, b, value)
    blue = '[["color~name","blue","m1","1"],["color~name","blue","m2","2"]]'
    assert (await site.evaluate("composite_range", "color~name", "blue")).decode() == blue
    every = json.loads(await site.evaluate("composite_range", "color~name"))
    assert [row[2] for row in every] == ["m1", "m2", "m3"]
    assert await site.evaluate("composite_range", "color~name", "green") == b"[]"


@case(
    node="does not look into the parts of a composite key",
    official_python="does not look into the parts of a composite key",
)
async def composite_key_injection(site: Site) -> None:
    result = await site.invoke("composite_put", "injected", "a\0b", "c", "value")
    assert refused(result) != ""


@case()
async def history(site: Site) -> None:
    written = [
        await site.invoke("put", "history", "first"),
        await site.invoke("put", "history", "second"),
        await site.invoke("del", "history"),
    ]
    entries = json.loads(await site.evaluate("history", "history"))
    assert [entry[:3] for entry in entries] == [
        [written[2].tx_id, "", True],
        [written[1].tx_id, "second", False],
        [written[0].tx_id, "first", False],
    ]
    times = [entry[3] for entry in entries]
    assert times == sorted(times, reverse=True)
    assert await site.evaluate("history", "without-history") == b"[]"


@case(official_python="the event never reaches the peer")
async def event(site: Site) -> None:
    result = await site.invoke("event", "happened", "details")
    assert (payload(result), result.event) == (b"", ("happened", b"details"))
    assert await site.evaluate("get", "happened") == b"details"


async def called(site: Site, callee: str, channel: str, *args: str | bytes) -> bytes:
    return await site.submit("call", callee, channel, *args)


@case(official_python="sends a call without the callee's name")
async def call(site: Site) -> None:
    """The callee's writes are part of the transaction, under the callee's own name."""
    assert await called(site, site.callee, "", "put", "call", b"\xff") == b""
    assert await called(site, site.callee, site.channel, "get", "call") == b"\xff"
    assert await site.evaluate("get", "call") == b""


@case(official_python="sends a call without the callee's name")
async def call_keeps_the_context(site: Site) -> None:
    result = await site.query("call", site.callee, "", "txid")
    assert payload(result) == result.tx_id.encode()
    assert await called(site, site.callee, "", "creator") == creator_text(site)


@case(official_python="sends a call without the callee's name")
async def call_on_another_channel(site: Site) -> None:
    """What the callee reads there is visible, what it writes there is thrown away."""
    there = site.other_channel
    await site.driver.invoke(there, site.callee, encoded("put", "kept", "there"))
    assert await called(site, site.callee, there, "get", "kept") == b"there"
    assert await called(site, site.callee, there, "channel") == there.encode()
    assert await called(site, site.callee, there, "put", "kept", "lost") == b""
    result = await site.driver.query(there, site.callee, encoded("get", "kept"))
    assert payload(result) == b"there"


@case(official_python="sends a call without the callee's name")
async def call_of_what_fails(site: Site) -> None:
    oops = await site.query("call", site.callee, "", "fail", "oops")
    assert refused(oops) == "call returned 500: oops"
    absent = await site.query("call", site.callee, "", "fail", "absent", "404")
    assert refused(absent) == "call returned 404: absent"


@case(official_python="sends a call without the callee's name")
async def call_of_nothing_installed(site: Site) -> None:
    message = refused(await site.query("call", "no-such-chaincode", "", "noop"))
    assert message.startswith("call returned 500: ")
    assert "no-such-chaincode" in message


@case()
async def value_of_1_mib(site: Site) -> None:
    await big_value(site, MIB)


@case(official_python="refuses messages above 4 MiB and ends the stream")
async def value_of_5_mib(site: Site) -> None:
    await big_value(site, 5 * MIB)


async def big_value(site: Site, size: int) -> None:
    assert await site.submit("big", str(size)) == str(size).encode()
    value = (bytes(range(251)) * (size // 251 + 1))[:size]
    expected = f"{size} {hashlib.sha256(value).hexdigest()}"
    assert (await site.evaluate("big_get", "big")).decode() == expected


@case()
async def failure(site: Site) -> None:
    assert refused(await site.invoke("fail", "bad luck")) == "bad luck"
    assert refused(await site.invoke("fail", "not here", "404"), 404) == "not here"
    assert refused(await site.invoke("mistyped")) == "unknown function: mistyped"


@case(official_python="raises without arguments, and answers nothing then")
async def no_arguments(site: Site) -> None:
    assert refused(await site.query()) == "unknown function: "


@case(only=["golang"])
async def panic(site: Site) -> None:
    """A panic ends the process, and so the stream; the next call finds a new one."""
    with pytest.raises(NoResponse):
        await site.invoke("throw", "deliberate")
    assert await site.evaluate("args") == b'["61726773"]'


@case(only=["node", "official_python"])
async def unanswered_exception(site: Site) -> None:
    """These libraries only log what a plain chaincode throws; the process lives on."""
    with pytest.raises(NoResponse):
        await site.invoke("throw", "deliberate")
    assert await site.evaluate("args") == b'["61726773"]'


@case(only=["ours", "ours_sync"])
async def exception(site: Site) -> None:
    assert "deliberate" in refused(await site.invoke("throw", "deliberate"))


@case(only=["golang", "node", "ours", "ours_sync"])
async def concurrency(site: Site) -> None:
    """50 transactions of one stream: each gets its own answer, and they overlap.

    The official Python library writes to its stream from many tasks at once. gRPC refuses some of
    the writes (GRPC_CALL_ERROR_TOO_MANY_OPERATIONS), now and then: too seldom for a known fault.
    """
    puts = [encoded("put", f"many-{i:02}", f"value {i}") for i in range(50)]
    calls = [*puts, *[encoded("sleep", "300")] * 50]
    began = time.monotonic()
    results = await site.driver.invoke_all(site.channel, site.chaincode, calls)
    assert time.monotonic() - began < 10  # one after the other the sleeps alone take 15 s
    assert [payload(result) for result in results] == [b""] * 50 + [b"300"] * 50
    assert len({result.tx_id for result in results}) == 100
    gets = [encoded("get", f"many-{i:02}") for i in range(50)]
    results = await site.driver.invoke_all(site.channel, site.chaincode, gets)
    assert [payload(result) for result in results] == [f"value {i}".encode() for i in range(50)]


@case(official_python="has no private data")
async def private_data(site: Site) -> None:
    collection = site.collection
    assert await site.submit("private_put", collection, "private", "secret") == b""
    assert await site.evaluate("private_get", collection, "private") == b"secret"
    digest = await site.evaluate("private_hash", collection, "private")
    assert digest.decode() == hashlib.sha256(b"secret").hexdigest()
    assert await site.evaluate("get", "private") == b""
    await site.submit("private_del", collection, "private")
    assert await site.evaluate("private_get", collection, "private") == b""
    assert await site.evaluate("private_hash", collection, "private") == b""


@case(official_python="has no private data")
async def unknown_collection(site: Site) -> None:
    assert "no-such-collection" in refused(
        await site.query("private_get", "no-such-collection", "k")
    )


@case(official_python="has no validation parameters")
async def validation_parameter(site: Site) -> None:
    """The policy asks for Org1MSP (member) and Org2MSP (peer)."""
    policy = bytes.fromhex(
        "120c120a080212020800120208011a0b12090a074f7267314d53501a0d120b0a074f7267324d53501003"
    )
    await site.submit("put", "guarded", "value")
    assert await site.evaluate("metadata_get", "guarded") == b""
    assert await site.submit("metadata_put", "guarded", policy) == b""
    assert await site.evaluate("metadata_get", "guarded") == policy
    assert await site.evaluate("get", "guarded") == b"value"


@case()
async def creator(site: Site) -> None:
    assert await site.evaluate("creator") == creator_text(site)


def creator_text(site: Site) -> bytes:
    identity = SerializedIdentity.parse(site.creator)
    return f"{identity.mspid} {hashlib.sha256(identity.id_bytes).hexdigest()}".encode()


@case(official_python="has no transient data")
async def transient(site: Site) -> None:
    secret = {"secret": b"\x00\xff", "other": b"x"}
    assert payload(await site.query("transient", "secret", transient=secret)) == b"\x00\xff"
    assert await site.evaluate("transient", "secret") == b""


@case()
async def identifiers(site: Site) -> None:
    result = await site.query("txid")
    assert payload(result) == result.tx_id.encode()
    assert await site.evaluate("channel") == site.channel.encode()
    when = (await site.evaluate("timestamp")).decode()
    assert re.fullmatch(r"\d+\.\d{9}", when)
    assert abs(float(when) - time.time()) < 600


@case()
async def arguments(site: Site) -> None:
    sent = encoded("args", "", "x", "é")
    assert await site.evaluate(*sent) == compact([arg.hex() for arg in sent])


@case(official_python="decodes every argument, and offers no other way to them")
async def binary_arguments(site: Site) -> None:
    assert await site.evaluate("args", b"\xff\x00") == b'["61726773","ff00"]'


@case()
async def init(site: Site) -> None:
    """Go answers a failing Init with ERROR, the others with a response of status 500."""
    driver, where = site.driver, (site.channel, site.uninitialised)
    try:
        refusal = refused(await driver.invoke(*where, encoded("fail", "too early"), is_init=True))
    except NoResponse as exc:
        refusal = str(exc)
    assert "too early" in refusal
    done = await driver.invoke(*where, encoded("init", "a", "b"), is_init=True)
    assert payload(done) == b""
    assert payload(await driver.query(*where, encoded("get", "init"))) == b'["init","a","b"]'


def compact(value: Any) -> bytes:
    """Write JSON as the chaincodes do."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
