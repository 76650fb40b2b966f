"""Which documents a selector matches, held against an evaluator of its own and against SQLite."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from peer.errors import QueryError
from peer.ledger.collation import collated, project
from peer.ledger.mango import MAX_DEPTH, parse_selector

# A second evaluator: it rewrites nothing and compares pairwise.

RANKS = ("null", "false", "true", "number", "string", "array", "object")


def rank(value: Any) -> int:
    if value is None or isinstance(value, bool):
        return RANKS.index(json.dumps(value))
    names = {int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return RANKS.index(names[type(value)])


def compare(left: Any, right: Any) -> int:
    if rank(left) != rank(right):
        return -1 if rank(left) < rank(right) else 1
    if isinstance(left, dict):
        left = [item for name in sorted(left) for item in (name, left[name])]
        right = [item for name in sorted(right) for item in (name, right[name])]
    if isinstance(left, list):
        for one, other in zip(left, right, strict=False):
            if difference := compare(one, other):
                return difference
        left, right = len(left), len(right)
    if left is None:
        return 0
    return (left > right) - (left < right)


def find(document: Any, names: list[str]) -> tuple[str, Any]:
    """Return found, missing or bad, and the value."""
    for name in names:
        if isinstance(document, dict):
            if name not in document:
                return "missing", None
            document = document[name]
        elif isinstance(document, list) and name.isdecimal() and int(name) < len(document):
            document = document[int(name)]
        else:
            return "bad", None
    return "found", document


TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "$lt": lambda value, wanted: compare(value, wanted) < 0,
    "$lte": lambda value, wanted: compare(value, wanted) <= 0,
    "$eq": lambda value, wanted: compare(value, wanted) == 0,
    "$ne": lambda value, wanted: compare(value, wanted) != 0,
    "$gte": lambda value, wanted: compare(value, wanted) >= 0,
    "$gt": lambda value, wanted: compare(value, wanted) > 0,
    "$in": lambda value, wanted: any(
        compare(one, each) == 0
        for one in (value if isinstance(value, list) else [value])
        for each in wanted
    ),
    "$nin": lambda value, wanted: not TESTS["$in"](value, wanted),
    "$all": lambda value, wanted: (
        isinstance(value, list)
        and wanted != []
        and (
            compare([value], wanted) == 0
            or all(any(compare(one, each) == 0 for one in value) for each in wanted)
        )
    ),
    "$type": lambda value, name: (
        {"true": "boolean", "false": "boolean"}.get(RANKS[rank(value)], RANKS[rank(value)]) == name
    ),
    "$size": lambda value, size: isinstance(value, list) and len(value) == size,
    "$mod": lambda value, pair: (
        type(value) is int and value - pair[0] * int(value / pair[0]) == pair[1]
    ),
    "$regex": lambda value, pattern: (
        isinstance(value, str) and re.search(pattern, value) is not None
    ),
    "$elemMatch": lambda value, inner: (
        isinstance(value, list) and any(evaluate(inner, one, element=True) for one in value)
    ),
    "$allMatch": lambda value, inner: (
        isinstance(value, list)
        and value != []
        and all(evaluate(inner, one, element=True) for one in value)
    ),
}


def evaluate(
    selector: Any,
    document: Any,
    names: tuple[str, ...] = (),
    wanted: bool = True,
    element: bool = False,
) -> bool:
    """Tell whether a selector's answer is the wanted one. A missing field never gives it."""

    def inner(part: Any, wanted: bool = wanted) -> bool:
        return evaluate(part, document, names, wanted, element)

    if not isinstance(selector, dict) or (not selector and names):
        selector = {"$eq": selector}
    if not selector:
        return wanted
    if len(selector) > 1:
        selector = {"$and": [{name: part} for name, part in selector.items()]}
    [(name, argument)] = selector.items()
    if name == "$not":
        return inner(argument, not wanted)
    if name in ("$and", "$or", "$nor"):
        aim = wanted if name != "$nor" else not wanted
        every = (name == "$and") == aim
        answers = [inner(part, aim) for part in argument]
        return not answers or (all(answers) if every else any(answers))
    if not name.startswith("$"):
        return evaluate(argument, document, (*names, *name.split(".")), wanted, element)
    state, value = find(document, list(names))
    if name == "$exists":
        return state == "found" if argument == wanted else state == "missing"
    return state == "found" and TESTS[name](value, argument) == wanted


SCALARS = st.sampled_from([None, False, True, -3, -1, 0, 1, 1.0, 2.5, 4, "", "a", "ab", "b", "é"])
NAMES = st.sampled_from(["a", "b", "0"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=3)
# Few of them, so that what a selector asks for is often there.
FEW = st.sampled_from([None, True, -3, 1, 1.0, "a", "ab"])
SMALL = FEW | st.lists(FEW, max_size=2) | st.dictionaries(NAMES, FEW, min_size=1, max_size=2)
MEETING = st.fixed_dictionaries({"a": SMALL}, optional={"b": SMALL})
FIELDS = st.sampled_from(["a", "a", "b", "a.b", "a.0", "b.a", "0"])
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["$lt", "$lte", "$eq", "$ne", "$gte", "$gt"]), SMALL),
    st.tuples(st.sampled_from(["$in", "$nin", "$all"]), st.lists(SMALL, max_size=3)),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(FEW, min_size=1, max_size=3)),
    st.tuples(st.just("$all"), st.lists(FEW, max_size=2).map(lambda one: [one])),
    st.tuples(st.just("$regex"), st.sampled_from(["^a", "b$", "^$", "a|é"])),
    st.tuples(st.just("$exists"), st.booleans()),
    st.tuples(
        st.just("$type"),
        st.sampled_from(["null", "boolean", "number", "string", "array", "object", "other"]),
    ),
    st.tuples(st.just("$size"), st.integers(0, 3)),
    st.tuples(
        st.just("$mod"),
        st.tuples(st.sampled_from([-2, 2, 3]), st.integers(-1, 1)).map(list),
    ),
)


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(inner, max_size=3)
    return st.one_of(
        st.tuples(st.sampled_from(["$and", "$or", "$nor"]), several),
        st.tuples(st.just("$not"), inner),
        st.tuples(FIELDS, inner),
    ).map(lambda pair: {pair[0]: pair[1]}) | several.map(
        lambda parts: {name: part for each in parts for name, part in each.items()}
    )


CONDITIONS = st.recursive(
    OPERATIONS.map(lambda pair: {pair[0]: pair[1]}),
    combined,
    max_leaves=4,
)
ELEMENTS = st.tuples(st.sampled_from(["$elemMatch", "$allMatch"]), CONDITIONS).map(
    lambda pair: {pair[0]: pair[1]}
)
SELECTORS = st.recursive(
    st.tuples(FIELDS, CONDITIONS | ELEMENTS | SMALL).map(lambda pair: {pair[0]: pair[1]}),
    combined,
    max_leaves=5,
)


@settings(max_examples=800)
@given(SELECTORS, st.lists(MEETING, min_size=3, max_size=8))
def test_random_selectors_agree_with_the_other_evaluator(
    selector: dict[str, Any], documents: list[dict[str, Any]]
) -> None:
    compiled = parse_selector(selector)
    for document in documents:
        assert compiled.matches(document) == evaluate(selector, document), document
        if compiled.matches(document):
            assert f'"{compiled.literal}"' in json.dumps(document, ensure_ascii=False) or (
                not compiled.literal
            )


@given(VALUES, VALUES, VALUES)
def test_values_are_in_one_order(one: Any, two: Any, three: Any) -> None:
    keys = [collated(value) for value in (one, two)]
    assert (keys[0] > keys[1]) - (keys[0] < keys[1]) == compare(one, two)
    first, second, third = sorted((one, two, three), key=collated)
    assert compare(first, second) <= 0
    assert compare(second, third) <= 0
    assert compare(first, third) <= 0


SQL = {
    "$lt": "json_type({0}) IN ('integer', 'real') AND json_extract({0}) < {1}",
    "$gte": "json_type({0}) IN ('integer', 'real') AND json_extract({0}) >= {1}",
    "$eq": "json_type({0}) IN ('integer', 'real') AND json_extract({0}) = {1}",
    "$size": "json_type({0}) = 'array' AND json_array_length({0}) = abs({1})",
    "$exists": "json_type({0}) IS NOT NULL OR {1} IS NULL",
}


@given(st.lists(DOCUMENTS, min_size=1, max_size=5), st.sampled_from(sorted(SQL)), st.integers(0, 4))
def test_what_sqlite_can_express_it_answers_alike(
    documents: list[dict[str, Any]], operator: str, number: int
) -> None:
    assume(all("0" not in document for document in documents))
    argument = True if operator == "$exists" else number
    # Numbers only: what SQLite thinks of other types is not CouchDB's order.
    selector: dict[str, Any] = {"a": {operator: argument}}
    if operator in ("$lt", "$gte"):
        selector["a"]["$type"] = "number"
    query = SQL[operator].format("document, '$.a'", number)
    compiled = parse_selector(selector)
    with closing(sqlite3.connect(":memory:")) as database:
        for document in documents:
            select = f"SELECT {query} FROM (SELECT ? AS document)"
            (answer,) = database.execute(select, [json.dumps(document)]).fetchone()
            assert bool(answer) == compiled.matches(document), document


CASES: list[tuple[Any, list[Any], list[Any]]] = [
    # condition on x; values of x that match; values that do not
    ({"$lt": 5}, [4, 4.9, None, False, True], [5, 5.0, "", [], {}]),
    ({"$lte": "b"}, ["b", "a", "", 9, None], ["ba", [], {}]),
    ({"$eq": 1}, [1, 1.0], [True, "1", [1], None]),
    ({"$eq": {"a": 1, "b": 2}}, [{"b": 2, "a": 1}], [{"a": 1}, {"a": 1, "b": 2, "c": 3}]),
    ({"$eq": None}, [None], [False, 0, ""]),
    ({"$ne": 1}, [2, "1", None, [1]], [1, 1.0]),
    ({"$gte": []}, [[], [None], {}, {"a": 1}], ["z", 9, None]),
    ({"$gt": {}}, [{"a": 1}], [{}, [9], "z"]),
    ({"$gt": True}, [0, -1, "", []], [True, False, None]),
    ({"$gt": 9007199254740992}, [9007199254740993], [9007199254740992.0]),
    ({"$exists": True}, [None, False, 0, []], []),
    ({"$type": "null"}, [None], [False, 0]),
    ({"$type": "boolean"}, [True, False], [0, 1, None]),
    ({"$type": "number"}, [0, 1.5], [True, "1"]),
    ({"$type": "string"}, [""], [1, []]),
    ({"$type": "array"}, [[]], [{}]),
    ({"$type": "object"}, [{}], [[], None]),
    ({"$type": "int"}, [], [1, "int"]),
    ({"$in": [1, "a", None]}, [1, "a", None, 1.0, ["a", 2], [[], None]], [2, True, [], [[1]]]),
    ({"$in": []}, [], [None, []]),
    ({"$nin": [1, "a"]}, [2, [], [2], None], [1, "a", [3, 1]]),
    ({"$nin": []}, [1, []], []),
    ({"$all": [1, 2]}, [[2, 1], [1, 2, 3]], [[1], [], 1, {"0": 1}]),
    ({"$all": [[1, 2]]}, [[1, 2], [[1, 2], 3]], [[2, 1], [1]]),
    ({"$all": []}, [], [[], [1]]),
    ({"$size": 0}, [[]], [[1], "", {}, 0]),
    ({"$size": 2}, [[None, None]], [[1], "ab"]),
    ({"$mod": [4, 1]}, [1, 5, 10**20 + 1], [4, 5.0, "5", True, -3]),
    ({"$mod": [-4, -1]}, [-5, -1], [5, 3]),
    ({"$mod": [4, 0]}, [0, 8, -4], [False, 2]),
    ({"$regex": "^a.c$"}, ["abc", "aéc", "abc\n"], ["xabc", "ac", 5, None, ["abc"]]),
    ({"$regex": "b"}, ["abc"], ["B", ""]),
    ({"$regex": "(?i)b[[:digit:]]"}, ["aB1"], ["b٣"]),
    ({"$elemMatch": {"$gt": 3, "$lt": 5}}, [[1, 4]], [[3, 5], [], 4, {"0": 4}]),
    ({"$elemMatch": {"a": 1, "b.c": 2}}, [[{"a": 1, "b": {"c": 2}}]], [[{"a": 1}], [1]]),
    ({"$elemMatch": {"$not": {"a": 1}}}, [[{"a": 2}]], [[{"a": 1}], [{}], [1]]),
    ({"$elemMatch": {}}, [[1]], [[], 1]),
    ({"$elemMatch": {"$elemMatch": {"$eq": 1}}}, [[[2], [1]]], [[1], [[2]]]),
    ({"$allMatch": {"$gt": 3}}, [[4, 5]], [[4, 3], [], 4]),
    ({"$allMatch": {"$exists": True}}, [[None]], [[]]),
    ({"$not": {"$gt": 3}}, [3, None], [4, "a"]),
    ({"$not": {"$regex": "a"}}, ["b", 5], ["a"]),
    ({"$not": {"$all": [1]}}, [[2], 5], [[1]]),
    ({"$and": [{"$gt": 1}, {"$lt": 3}]}, [2], [1, 3]),
    ({"$or": [{"$lt": 1}, {"$gt": 3}]}, [0, 4], [1, 3]),
    ({"$nor": [{"$lt": 1}, {"$gt": 3}]}, [1, 3], [0, 4]),
    ({"$gt": 1, "y": 5}, [{"y": 5}], [{"y": 4}, 2]),
    ({}, [{}], [{"a": 1}, [], None]),
    ([1, 2], [[1, 2]], [[2, 1], 1]),
    ("a", ["a"], ["A", None]),
    ({"y": {"z": 1}}, [{"y": {"z": 1, "q": 2}}], [{"y": 1}, {"y": [1]}]),
    ({"1": "b"}, [["a", "b"], {"1": "b"}], [["b"], "ab"]),
]


@pytest.mark.parametrize(("condition", "matching", "others"), CASES, ids=str)
def test_every_operator_on_every_type(
    condition: Any, matching: list[Any], others: list[Any]
) -> None:
    matches = parse_selector({"x": condition}).matches
    negated = parse_selector({"$not": {"x": condition}}).matches
    for value in matching:
        assert matches({"x": value}), value
        assert not negated({"x": value}), value
    for value in others:
        assert not matches({"x": value}), value
    assert not matches({})
    assert not negated({}) or condition == {"$exists": True}


@pytest.mark.parametrize(
    ("selector", "document", "answer"),
    [
        ({}, {"a": 1}, True),
        ({"$not": {}}, {"a": 1}, False),
        ({"$and": []}, {}, True),
        ({"$or": []}, {}, True),
        ({"$nor": []}, {}, True),
        ({"$not": {"$and": []}}, {}, True),
        ({"a": {"$exists": False}}, {}, True),
        ({"a.b": {"$exists": False}}, {"a": {}}, True),
        ({"a.b": {"$exists": False}}, {"a": 1}, False),
        ({"a.2": {"$exists": False}}, {"a": [1]}, False),
        ({"$not": {"a": {"$exists": True}}}, {}, True),
        ({"$not": {"a": {"$exists": False}}}, {}, False),
        ({"$not": {"$not": {"a": 1}}}, {"a": 1}, True),
        ({"$nor": [{"a": 1}, {"b": 2}]}, {"a": 2, "b": 3}, True),
        ({"$nor": [{"a": 1}, {"b": 2}]}, {"a": 2}, False),
        ({"$not": {"a": 1, "b": 2}}, {"a": 1, "b": 3}, True),
        ({r"a\.b": 1}, {"a.b": 1}, True),
        ({r"a\.b": 1}, {"a": {"b": 1}}, False),
        ({"a": {"b.c": 1}}, {"a": {"b": {"c": 1}}}, True),
        ({"a": {"$or": [{"b": 1}, {"$eq": 2}]}}, {"a": 2}, True),
    ],
)
def test_combinations_and_fields(
    selector: dict[str, Any], document: dict[str, Any], answer: bool
) -> None:
    assert parse_selector(selector).matches(document) is answer


@pytest.mark.parametrize(
    ("selector", "text"),
    [
        ([], "selector must be an object"),
        ({"$and": {}}, "selector.$and must be an array"),
        ({"$or": [{"a": 1}, {"$not": 1}]}, "selector.$or.1.$not must be an object"),
        ({"$and": [1]}, "selector.$and.0 stands without a field"),
        ({"$gt": 1}, "selector.$gt stands without a field"),
        ({"$exists": True}, "selector.$exists stands without a field"),
        ({"a": {"$exists": 1}}, "selector.a.$exists must be true or false"),
        ({"a": {"$in": 1}}, "selector.a.$in must be an array"),
        ({"a": {"$nin": "x"}}, "selector.a.$nin must be an array"),
        ({"a": {"$all": {}}}, "selector.a.$all must be an array"),
        ({"a": {"$type": 1}}, "selector.a.$type must be a string"),
        ({"a": {"$size": -1}}, "selector.a.$size must be a whole number from 0 on"),
        ({"a": {"$size": True}}, "selector.a.$size must be a whole number from 0 on"),
        ({"a": {"$elemMatch": []}}, "selector.a.$elemMatch must be an object"),
        ({"a": {"$allMatch": {"$x": 1}}}, "selector.a.$allMatch.$x $x is no operator here"),
        ({"a": {"$regex": 5}}, "selector.a.$regex must be a string"),
        ({"$text": "x"}, "selector.$text stands without a field"),
        ({"a..b": 1}, "selector.a..b 'a..b' is no name of a field"),
        ({"": 1}, "selector. '' is no name of a field"),
        *(
            ({"a": {"$mod": pair}}, "divisor other than 0 and a remainder")
            for pair in ([0, 1], [2], [2, 1, 0], [2.0, 1], [True, 1], "21")
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(selector: Any, text: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse_selector(selector)
    assert str(caught.value).startswith("rich query: ")
    assert str(caught.value).endswith(text)


def test_a_regular_expression_is_checked_and_limited() -> None:
    with pytest.raises(QueryError, match=r"selector\.a\.\$regex is no regular expression"):
        parse_selector({"a": {"$regex": "("}})
    slow = parse_selector({"a": {"$regex": "^(a|a|aa)+$"}})
    with pytest.raises(QueryError, match=r"\$regex took more than 0\.1 s on one value"):
        slow.matches({"a": "a" * 60 + "b"})


def test_depth_is_limited() -> None:
    def nested(depth: int) -> dict[str, Any]:
        selector: dict[str, Any] = {"a": 1}
        for _ in range(depth - 1):
            selector = {"$not": selector}
        return selector

    assert parse_selector(nested(MAX_DEPTH)).matches({"a": 1}) is (MAX_DEPTH % 2 == 1)
    with pytest.raises(QueryError, match="nested deeper than 50 levels"):
        parse_selector(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize(
    ("selector", "literal"),
    [
        ({"a": "x", "b": "longer"}, "longer"),
        ({"a": {"b": {"$eq": "x"}}}, "x"),
        ({"$and": [{"a": "x"}]}, "x"),
        ({"$or": [{"a": "x"}]}, "x"),
        ({"$not": {"$not": {"a": "x"}}}, "x"),
        ({"$or": [{"a": "x"}, {"b": 1}]}, ""),
        ({"$not": {"a": "x"}}, ""),
        ({"$nor": [{"a": "x"}]}, ""),
        ({"a": {"$ne": "x"}}, ""),
        ({"a": {"$elemMatch": {"$eq": "x"}}}, ""),
        ({"$not": {"a": {"$elemMatch": {"$eq": "x"}}}}, ""),
        ({"_id": "x"}, ""),
        ({"a": 1}, ""),
    ],
)
def test_the_string_every_match_holds(selector: dict[str, Any], literal: str) -> None:
    assert parse_selector(selector).literal == literal


@pytest.mark.parametrize(
    ("value", "fields", "projection"),
    [
        (b'{"b":1.50,"a":-0,"c":1E+2}', ["c", "b", "a"], b'{"a":-0,"b":1.50,"c":1E+2}'),
        (b'{ "a" : { "c" : [1, {"y": 2}] , "b" : 3 } }', ["a.c"], b'{"a":{"c":[1,{"y":2}]}}'),
        (b'{"a":{"b":1,"c":2}}', ["a", "a.b"], b'{"a":{"b":1,"c":2}}'),
        (b'{"a":{"b":1,"c":2}}', ["a.b", "a.c"], b'{"a":{"b":1,"c":2}}'),
        (b'{"a":[5,6]}', ["a.1"], b'{"a":{"1":6}}'),
        (b'{"a":[5,6]}', ["a", "a.1"], b'{"a":[5,6]}'),
        (b'{"a":1}', ["b", "a.b", "_id"], b"{}"),
        (b'{"a":"<&>\\u2028\\ud800 \xc3\xa9\\n\\u007f"}', ["a"],
         b'{"a":"\\u003c\\u0026\\u003e\\u2028\xef\xbf\xbd \xc3\xa9\\n\x7f"}'),
        (b'{"a":[true,null,1e999,12345678901234567890123]}', ["a"],
         b'{"a":[true,null,1e999,12345678901234567890123]}'),
    ],
)  # fmt: skip
def test_projections_are_canonical(value: bytes, fields: list[str], projection: bytes) -> None:
    assert project(value, [tuple(field.split(".")) for field in fields]) == projection
