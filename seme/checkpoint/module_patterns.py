"""Regular expressions of module names in adapter configurations, matched in bounded time.

An adapter's file is untrusted, and Python's ``re`` takes exponential time for some patterns. So
a pattern is compiled here into a finite automaton, whose states are found as they are needed:
matching takes time linear in the name, and a limit on the whole work holds. The language is
that of ``re`` without what automata cannot do (references, look-around); flags but ``(?i)`` at
the beginning are refused as well. Thompson, 1968, https://doi.org/10.1145/363347.363387.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from seme.checkpoint.regular_file import shown

_T = TypeVar("_T")
_MAX_PATTERN = 1000
"""Characters of a pattern."""
_MAX_STATES = 5000
"""States of a pattern's automaton, repeated parts repeated."""
_MAX_WORK = 2_000_000
"""States visited and characters read for one adapter: about half a second (measured)."""
_PLAIN = re.compile(r"(?:[\w.-]|\\[.dw-])*")
"""Patterns without choices, which ``re`` matches in linear time: names of modules."""
_COUNTED = re.compile(r"\{(\d{0,5})(?:(,)(\d{0,5}))?\}")
_ESCAPED = re.compile(r"\\[dDwWsS]|\\[^A-Za-z0-9]", re.DOTALL)
_SPECIAL = frozenset("*+?")


class ModulePatterns(Generic[_T]):
    """Values of modules, by regular expressions of the end of their names; the first wins."""

    def __init__(self, name: str, values: Mapping[str, _T]) -> None:
        """Compile the patterns.

        Args:
            name: The configuration's entry, for messages.
            values: Pattern to value; a pattern matches a whole name, or what follows a dot.

        Raises:
            ValueError: If a pattern is no regular expression, is not supported or is too large.
        """
        self.values = values
        self._name = name
        self._work = 0
        self._compiled = [(_compiled(name, pattern), v) for pattern, v in values.items()]

    def value_of(self, module: str, default: _T) -> _T:
        """Return the value of the first pattern that matches a module's name.

        Raises:
            ValueError: If matching takes too long.
        """
        for pattern, value in self._compiled:
            matches, work = pattern.match(module)
            self._work += work
            if self._work > _MAX_WORK:
                raise ValueError(
                    f"the patterns of {self._name} take too long to match: use names of modules"
                )
            if matches:
                return value
        return default


class _Plain:
    """A pattern without choices."""

    def __init__(self, pattern: str) -> None:
        self._compiled = re.compile(rf"(?:.*\.)?(?:{pattern})\Z")

    def match(self, name: str) -> tuple[bool, int]:
        """Return whether a name matches, and the work it took."""
        return self._compiled.match(name) is not None, 1


@dataclass(slots=True)
class _State:
    """A state: reads a character and goes on, or goes on without reading."""

    reads: "re.Pattern[str] | None" = None
    """Of one character; None for a state that reads none."""
    where: str = ""
    """``^`` or ``$`` for a state that is passed at that end of the name only."""
    targets: list[int] = field(default_factory=list)


class _Automaton:
    """A pattern with choices: states, and sets of states by those they come from."""

    def __init__(self, pattern: str) -> None:
        self._states: list[_State] = []
        self._accept = self._add()
        anything, flags = re.compile(".", re.DOTALL), 0
        if pattern.startswith("(?i)"):
            pattern, flags = pattern.removeprefix("(?i)"), re.IGNORECASE
        start = self._build(_Parser(pattern, flags).parse(), self._accept)
        dot = self._add(start, reads=re.compile(r"\."))
        loop = self._add()
        self._states[loop].targets = [self._add(loop, reads=anything), dot]
        self._start = self._add(start, loop)
        self._known: dict[tuple[frozenset[int], str], frozenset[int]] = {}
        self._first: frozenset[int] | None = None

    def match(self, name: str) -> tuple[bool, int]:
        """Return whether a name matches, and the work it took."""
        work = len(name)
        if self._first is None:
            self._first, visited = self._reached({self._start}, "^")
            work += visited
        current = self._first
        for character in name:
            key = current, character
            if key not in self._known:
                moved = {
                    target
                    for index in current
                    if (reads := self._states[index].reads) and reads.match(character)
                    for target in self._states[index].targets
                }
                self._known[key], visited = self._reached(moved, "")
                work += visited + len(current)
                if work > _MAX_WORK:
                    return False, work
            current = self._known[key]
        last, visited = self._reached(set(current), "^$" if not name else "$")
        return self._accept in last, work + visited

    def _reached(self, states: set[int], where: str) -> tuple[frozenset[int], int]:
        """Return the states reached without reading, at an end of the name; and their number."""
        waiting, seen = list(states), set(states)
        while waiting:
            state = self._states[waiting.pop()]
            if state.reads is None and (not state.where or state.where in where):
                new = [target for target in state.targets if target not in seen]
                seen.update(new)
                waiting += new
        return frozenset(seen), len(seen)

    def _add(
        self, *targets: int, reads: "re.Pattern[str] | None" = None, where: str = ""
    ) -> int:
        if len(self._states) >= _MAX_STATES:
            raise _PatternError("has too many parts")
        self._states.append(_State(reads, where, list(targets)))
        return len(self._states) - 1

    def _build(self, node: "_Node", after: int) -> int:
        """Add the states of a node in front of a state; return its first."""
        match node:
            case _Read(reads):
                return self._add(after, reads=reads)
            case _End(where):
                return self._add(after, where=where)
            case _Choice(nodes):
                return self._add(*(self._build(inner, after) for inner in nodes))
            case _Sequence(nodes):
                for inner in reversed(nodes):
                    after = self._build(inner, after)
                return self._add(after)
            case _Repeat(inner, least, most):
                return self._build_repeated(inner, least, most, after)

    def _build_repeated(self, inner: "_Node", least: int, most: int | None, after: int) -> int:
        first = after
        if most is None:
            first = self._add(after)
            self._states[first].targets.append(self._build(inner, first))
        for _ in range((least if most is None else most) - least):
            first = self._add(self._build(inner, first), after)
        for _ in range(least):
            first = self._build(inner, first)
        return first


class _PatternError(Exception):
    """A pattern that cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class _Read:
    reads: "re.Pattern[str]"


@dataclass(frozen=True, slots=True)
class _End:
    where: str


@dataclass(frozen=True, slots=True)
class _Choice:
    nodes: list["_Node"]


@dataclass(frozen=True, slots=True)
class _Sequence:
    nodes: list["_Node"]


@dataclass(frozen=True, slots=True)
class _Repeat:
    inner: "_Node"
    least: int
    most: int | None


_Node = _Read | _End | _Choice | _Sequence | _Repeat


class _Parser:
    """Recursive descent over a pattern."""

    def __init__(self, pattern: str, flags: int) -> None:
        self._pattern, self._place, self._flags = pattern, 0, flags

    def parse(self) -> _Node:
        node = self._choice()
        if self._place < len(self._pattern):
            raise _PatternError("has a parenthesis too many")
        return node

    def _choice(self) -> _Node:
        nodes: list[_Node] = [_Sequence(list(self._sequence()))]
        while self._taken("|"):
            nodes.append(_Sequence(list(self._sequence())))
        return _Choice(nodes) if len(nodes) > 1 else nodes[0]

    def _sequence(self) -> Iterator[_Node]:
        while self._place < len(self._pattern) and self._pattern[self._place] not in "|)":
            yield self._repeated(self._atom())

    def _atom(self) -> _Node:
        if self._taken("("):
            if self._taken("?") and not self._taken(":"):
                raise _PatternError("has a group that is not supported")
            node = self._choice()
            if not self._taken(")"):
                raise _PatternError("lacks a parenthesis")
            return node
        for where in "^$":
            if self._taken(where):
                return _End(where)
        if self._pattern[self._place] in _SPECIAL:
            raise _PatternError("repeats nothing")
        return _Read(self._character())

    def _character(self) -> "re.Pattern[str]":
        """Compile what reads one character: itself, an escape, a class."""
        start = self._place
        match self._pattern[start]:
            case "[":
                self._place = self._end_of_class(start)
            case "\\":
                if not (escaped := _ESCAPED.match(self._pattern, start)):
                    raise _PatternError("has an escape that is not supported")
                self._place = escaped.end()
            case _:
                self._place += 1
        text = self._pattern[start : self._place]
        text = rf"\{text}" if text in "{}]" else text
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                return re.compile(text, self._flags)
        except (re.error, Warning) as error:
            raise _PatternError(f"has {shown(text)}, which cannot be read") from error

    def _end_of_class(self, start: int) -> int:
        place = start + 1
        place += self._pattern[place : place + 1] == "^"
        place += self._pattern[place : place + 1] == "]"
        while place < len(self._pattern) and self._pattern[place] != "]":
            place += 2 if self._pattern[place] == "\\" else 1
        if place >= len(self._pattern):
            raise _PatternError("lacks a bracket")
        return place + 1

    def _repeated(self, node: _Node) -> _Node:
        counts = self._counts()
        if counts is None:
            return node
        self._taken("?")  # lazy: the same names match
        if isinstance(node, _End) or self._counts() is not None:
            raise _PatternError("repeats a repetition")
        return _Repeat(node, *counts)

    def _counts(self) -> tuple[int, int | None] | None:
        for sign, least, most in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._taken(sign):
                return least, most
        counted = _COUNTED.match(self._pattern, self._place)
        if counted is None or counted[0] == "{}":
            if self._pattern.startswith("{", self._place) and self._looks_counted():
                raise _PatternError("repeats too often")
            return None
        self._place = counted.end()
        first = int(counted[1] or 0)
        last = first if counted[2] is None else int(counted[3]) if counted[3] else None
        if last is not None and last < first:
            raise _PatternError("has counts in the wrong order")
        return first, last

    def _looks_counted(self) -> bool:
        return re.compile(r"\{\d*,?\d*\}").match(self._pattern, self._place) is not None and (
            self._pattern[self._place : self._place + 2] != "{}"
        )

    def _taken(self, character: str) -> bool:
        taken = self._pattern.startswith(character, self._place)
        self._place += taken
        return taken


def _compiled(name: str, pattern: str) -> _Plain | _Automaton:
    """Compile a pattern, or say what is wrong with it."""
    try:
        if len(pattern) > _MAX_PATTERN:
            raise _PatternError(
                f"has {len(pattern)} characters, expected at most {_MAX_PATTERN}"
            )
        return _Plain(pattern) if _PLAIN.fullmatch(pattern) else _Automaton(pattern)
    except (_PatternError, RecursionError) as error:
        reason = str(error) if isinstance(error, _PatternError) else "is nested too deep"
        raise ValueError(
            f"{name} has the invalid regular expression {shown(pattern)}: it {reason}"
        ) from error
