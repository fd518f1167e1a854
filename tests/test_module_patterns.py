"""Patterns of module names: the language of re, in bounded time."""

import random
import re
import time

import pytest

from seme.checkpoint.module_patterns import ModulePatterns


def value(pattern, module):
    return ModulePatterns("rank_pattern", {pattern: 1}).value_of(module, 0)


PATTERNS = [
    "q_proj", "a|b", r"layers\.[01]\.q", "(a|b)*c", "a{2}", "a{,2}b", "a{1,}b", "^model", "b$",
    "[^.]+", r"\d+", "(?:ab)+", "a??b", "a.*b", "", "()*", "(a?)*", "a{b", "a{}", "{", "]", "}",
    "[]a]", "[^]a]+", "-", "(^a)", "(a$|b)", r"[a\]]", "a{0}b", "((a{2}){2})", r"[\w.]+q", "a|",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_those_of_re(pattern):
    rng = random.Random(pattern)
    expected = re.compile(rf"(.*\.)?({pattern})$")
    for _ in range(60):
        module = "".join(rng.choices("ab.q01mc{}]-", k=rng.randrange(8)))
        assert value(pattern, module) == (expected.match(module) is not None), module


def test_the_first_match_wins():
    patterns = ModulePatterns("x", {"b|q": 1, "q": 2, "a": 3})
    assert [patterns.value_of(name, 0) for name in ("m.q", "m.a", "m.c")] == [1, 3, 0]


def test_letters_may_be_of_either_case():
    assert (value("(?i)Q_(proj)", "x.q_PROJ"), value("Q_(proj)", "x.q_PROJ")) == (1, 0)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "lacks a parenthesis"),
        (")", "has a parenthesis too many"),
        ("[a", "lacks a bracket"),
        ("[b-a]", r"has '\[b-a\]', which cannot be read"),
        ("*a", "repeats nothing"),
        ("a**", "repeats a repetition"),
        ("^*", "repeats a repetition"),
        ("a{2,1}", "has counts in the wrong order"),
        ("a{99999999999}", "repeats too often"),
        ("((a{1000}){1000}){1000}", "has too many parts"),
        ("((){1000}){1000}", "has too many parts"),
        (r"(a)\1", "has an escape that is not supported"),
        ("(?=a)a", "has a group that is not supported"),
        ("(" * 500 + ")" * 500, "is nested too deep"),
        ("a" * 1001, "has 1001 characters, expected at most 1000"),
    ],
)
def test_other_patterns_are_refused(pattern, reason):
    with pytest.raises(ValueError, match=rf"^rank_pattern has the invalid .*: it {reason}"):
        value(pattern, "a")


@pytest.mark.parametrize("pattern", ["([a-z_.]+)+!", ".*.*.*.*.*.*x", "(a|a)*(a|b)*(a|c)*!"])
def test_patterns_that_take_exponential_time_in_re_take_none_here(pattern):
    patterns, started = ModulePatterns("x", {pattern: 1}), time.process_time()
    assert patterns.value_of("model.layers.0.self_attn.q_proj" * 4, 0) == 0
    assert time.process_time() - started < 1


def test_the_work_for_an_adapter_is_limited():
    patterns = ModulePatterns("x", {f"(a){{{n}}}b": 1 for n in range(60)})
    modules = ["a" * n for n in range(250)]
    with pytest.raises(ValueError, match="the patterns of x take too long to match"):
        [patterns.value_of(module, 0) for module in modules * 10]
