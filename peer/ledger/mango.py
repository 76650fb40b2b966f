"""Read a Mango selector and tell which JSON documents it matches.

Room:      peer.ledger   (imports collation, peer.errors; used by queries)
Loop:      none
Lifetime:  one query
Fabric:    CouchDB's src/mango/src/mango_selector.erl (3.x); Fabric itself only passes selectors on

A selector is compiled once into a predicate. Fields are carried down to the operators, so what is
left of it are combinations of tests on one value each. Every test but ``$exists: false`` fails
where its field is missing, and so does its negation: ``{"$not": {"a": 1}}`` matches documents that
have an ``a`` which is not 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from peer.errors import QueryError
from peer.ledger.collation import (
    MISSING,
    Json,
    Path,
    collated,
    encoded,
    is_found,
    parse_path,
    type_name,
    value_at,
)

MAX_DEPTH = 50
MATCH_TIMEOUT_S = 0.1
"""What ``$regex`` may take for one value; nothing else runs meanwhile."""

Predicate = Callable[[Any], bool]
Test = Callable[[Json, str], Predicate]
"""Makes a test on a value of an operator's argument and its place in the query."""


class Bounds(NamedTuple):
    """What a value must lie between, in the form `encoded` gives: low <= value < high."""

    low: bytes = b""
    high: bytes = b"\xff"

    def meet(self, other: Bounds) -> Bounds:
        """Return what both leave."""
        return Bounds(max(self.low, other.low), min(self.high, other.high))

    @property
    def is_single(self) -> bool:
        """Only one value lies between."""
        return bool(self.low) and self.high == self.low + b"\xff"


class Selector(NamedTuple):
    """A compiled selector, and what is known of every document it matches.

    Attributes:
        literal: a string it holds as a value somewhere; empty when there is none to tell.
        present: fields it has.
        bounds: where the values of some of these lie.
    """

    matches: Predicate
    literal: str
    present: Set[Path]
    bounds: Mapping[Path, Bounds]


class _Scope(NamedTuple):
    """Where in a document and in the query a part of the selector stands.

    Attributes:
        is_element: the document is an element of an array, on which operators stand without field.
        is_required: what does not match here, does not match at all.
    """

    place: str
    path: Path = ()
    is_negated: bool = False
    is_element: bool = False
    is_required: bool = True
    depth: int = 0

    def at(self, name: str | int) -> _Scope:
        return self._replace(place=f"{self.place}.{name}", depth=self.depth + 1)


def parse_selector(selector: Json, place: str = "selector") -> Selector:
    """Compile a decoded selector.

    Raises:
        QueryError: it is none; the error names the place.
    """
    if not isinstance(selector, dict):
        raise QueryError(place, "must be an object")
    compiler = _Compiler()
    matches = compiler.part(selector, _Scope(place))
    literal = max(compiler.literals, key=len, default="")
    return Selector(matches, literal, compiler.present, compiler.bounds)


@dataclass(slots=True)
class _Compiler:
    literals: list[str] = field(default_factory=list)
    present: set[Path] = field(default_factory=set)
    bounds: dict[Path, Bounds] = field(default_factory=dict)

    def part(self, node: Json, scope: _Scope) -> Predicate:
        if scope.depth > MAX_DEPTH:
            raise QueryError(scope.place, f"is nested deeper than {MAX_DEPTH} levels")
        match node:
            case dict() if not node:
                if scope.path:
                    return self._test("$eq", node, scope)
                return _never if scope.is_negated else _always
            case dict() if len(node) == 1:
                [(name, argument)] = node.items()
                return self._entry(name, argument, scope.at(name))
            case dict():
                parts = [{name: argument} for name, argument in node.items()]
                return self._combination(parts, scope, conjunction=True, numbered=False)
            case _:
                return self._test("$eq", node, scope)

    def _entry(self, name: str, argument: Json, scope: _Scope) -> Predicate:
        match name:
            case "$and" | "$or":
                parts = _array(argument, scope.place)
                return self._combination(parts, scope, conjunction=name == "$and")
            case "$nor":
                flipped = scope._replace(is_negated=not scope.is_negated)
                parts = _array(argument, scope.place)
                return self._combination(parts, flipped, conjunction=False)
            case "$not":
                flipped = scope._replace(is_negated=not scope.is_negated)
                return self.part(_object(argument, scope.place), flipped)
            case _ if name.startswith("$"):
                return self._test(name, argument, scope)
            case _:
                path = scope.path + parse_path(name, scope.place)
                return self.part(argument, scope._replace(path=path))

    def _combination(
        self, parts: list[Json], scope: _Scope, *, conjunction: bool, numbered: bool = True
    ) -> Predicate:
        if not parts:
            return _always  # whatever the combination, and negated too
        is_conjunction = conjunction != scope.is_negated
        if not is_conjunction and len(parts) > 1:
            scope = scope._replace(is_required=False)
        predicates = [
            self.part(part, scope.at(number) if numbered else scope)
            for number, part in enumerate(parts)
        ]
        if is_conjunction:
            return lambda value: all(predicate(value) for predicate in predicates)
        return lambda value: any(predicate(value) for predicate in predicates)

    def _test(self, operator: str, argument: Json, scope: _Scope) -> Predicate:
        if not (scope.path or scope.is_element):
            raise QueryError(scope.place, "stands without a field")
        if operator == "$exists":
            should_exist = _boolean(argument, scope.place) != scope.is_negated
            if should_exist and scope.is_required:
                self.present.add(scope.path)
            return _exists(scope.path, should_exist)
        if operator in ("$elemMatch", "$allMatch"):
            test = self._on_elements(operator, _object(argument, scope.place), scope)
        elif operator in TESTS:
            test = TESTS[operator](argument, scope.place)
        else:
            raise QueryError(scope.place, f"{operator} is no operator here")
        if scope.is_required:
            self._require(operator, argument, scope)
        return _present(scope.path, test, scope.is_negated)

    def _on_elements(self, operator: str, argument: Json, scope: _Scope) -> Predicate:
        inside = scope._replace(path=(), is_negated=False, is_element=True, is_required=False)
        matches = self.part(argument, inside)
        quantifier = any if operator == "$elemMatch" else all
        return lambda value: (
            isinstance(value, list) and value != [] and quantifier(map(matches, value))
        )

    def _require(self, operator: str, argument: Json, scope: _Scope) -> None:
        """Note what a test that must hold says of the field it is on."""
        path = scope.path
        self.present.add(path)
        if scope.is_negated:
            return
        if operator in BOUNDS:
            bounds = BOUNDS[operator](encoded(argument))
            self.bounds[path] = bounds.meet(self.bounds.get(path, Bounds()))
        # The key of a document is no part of its value.
        if operator == "$eq" and isinstance(argument, str) and path[0] != "_id":
            self.literals.append(argument)


def _always(_: Json) -> bool:
    return True


def _never(_: Json) -> bool:
    return False


def _present(path: Path, test: Predicate, is_negated: bool) -> Predicate:
    def matches(document: Json) -> bool:
        value = value_at(document, path)
        return is_found(value) and test(value) != is_negated

    return matches


def _exists(path: Path, should_exist: bool) -> Predicate:
    if should_exist:
        return lambda document: is_found(value_at(document, path))
    return lambda document: value_at(document, path) is MISSING


def _compare(decide: Callable[[Any, Any], bool]) -> Test:
    def make(argument: Json, place: str) -> Predicate:
        bound = collated(argument)
        return lambda value: decide(collated(value), bound)

    return make


def _in(argument: Json, place: str) -> Predicate:
    wanted = [collated(each) for each in _array(argument, place)]

    def test(value: Json) -> bool:
        if isinstance(value, list):
            return any(collated(element) in wanted for element in value)
        return collated(value) in wanted

    return test


def _nin(argument: Json, place: str) -> Predicate:
    is_in = _in(argument, place)
    return lambda value: not is_in(value)


def _all(argument: Json, place: str) -> Predicate:
    wanted = [collated(each) for each in _array(argument, place)]

    def test(value: Json) -> bool:
        if not (isinstance(value, list) and wanted):
            return False
        found = [collated(element) for element in value]
        # One array may also stand for the whole value.
        return all(each in found for each in wanted) or wanted == [collated(value)]

    return test


def _type(argument: Json, place: str) -> Predicate:
    name = _string(argument, place)
    return lambda value: type_name(value) == name


def _size(argument: Json, place: str) -> Predicate:
    if not _is_integer(argument) or argument < 0:
        raise QueryError(place, "must be a whole number from 0 on")
    return lambda value: isinstance(value, list) and len(value) == argument


def _mod(argument: Json, place: str) -> Predicate:
    match argument:
        case [divisor, remainder] if _is_integer(divisor) and _is_integer(remainder) and divisor:
            pass
        case _:
            raise QueryError(place, "must be an array of a divisor other than 0 and a remainder")

    def test(value: Json) -> bool:
        if not _is_integer(value):
            return False
        left = abs(value) % abs(divisor)  # Erlang's rem has the sign of the dividend
        return bool((-left if value < 0 else left) == remainder)

    return test


def _regex(argument: Json, place: str) -> Predicate:
    import regex  # few queries match by pattern, and every start would wait for it

    try:
        pattern = regex.compile(_string(argument, place), regex.ASCII)
    except (regex.error, RecursionError, OverflowError) as exc:
        raise QueryError(place, f"is no regular expression: {exc}") from exc

    def test(value: Json) -> bool:
        if not isinstance(value, str):
            return False
        try:
            return pattern.search(value, timeout=MATCH_TIMEOUT_S) is not None
        except TimeoutError:
            reason = f"took more than {MATCH_TIMEOUT_S} s on one value; make it simpler"
            raise QueryError(place, reason) from None

    return test


TESTS: Mapping[str, Test] = {
    "$lt": _compare(lambda value, bound: value < bound),
    "$lte": _compare(lambda value, bound: value <= bound),
    "$eq": _compare(lambda value, bound: value == bound),
    "$ne": _compare(lambda value, bound: value != bound),
    "$gte": _compare(lambda value, bound: value >= bound),
    "$gt": _compare(lambda value, bound: value > bound),
    "$in": _in,
    "$nin": _nin,
    "$all": _all,
    "$type": _type,
    "$size": _size,
    "$mod": _mod,
    "$regex": _regex,
}

# No encoded value is the beginning of another, and none holds a byte 0xff where the next begins.
BOUNDS: Mapping[str, Callable[[bytes], Bounds]] = {
    "$lt": lambda value: Bounds(high=value),
    "$lte": lambda value: Bounds(high=value + b"\xff"),
    "$eq": lambda value: Bounds(value, value + b"\xff"),
    "$gte": lambda value: Bounds(low=value),
    "$gt": lambda value: Bounds(low=value + b"\xff"),
}


def _is_integer(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _array(argument: Json, place: str) -> list[Json]:
    if not isinstance(argument, list):
        raise QueryError(place, "must be an array")
    return argument


def _object(argument: Json, place: str) -> dict[str, Json]:
    if not isinstance(argument, dict):
        raise QueryError(place, "must be an object")
    return argument


def _string(argument: Json, place: str) -> str:
    if not isinstance(argument, str):
        raise QueryError(place, "must be a string")
    return argument


def _boolean(argument: Json, place: str) -> bool:
    if not isinstance(argument, bool):
        raise QueryError(place, "must be true or false")
    return argument
