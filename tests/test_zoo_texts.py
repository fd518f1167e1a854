"""Manual pages as plain text, packages fetched and split, exercises and token streams."""

import gzip
import hashlib
import random
import re
import subprocess
import zipfile
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from scripts.zoo.items import Exercise, addition, common_words, draw, numbers, output_format
from scripts.zoo.material import Material, experts_of, mix_of
from scripts.zoo.texts import Document, fetch, plain_text, read_documents, split_of
from scripts.zoo.training import END_OF_TEXT, batches, tokenize, train_tokenizer

LONG = "A line of a page that is long enough. " * 30  # 1140 characters; 800 are needed


@pytest.mark.parametrize(
    ("roff", "text"),
    [
        (r"\fBbold\fP, \fIitalic\fR, \f(CWfixed\fR, \f[B]x\f[R]", "bold, italic, fixed, x"),
        (r"\-\-all\ \(em one\(enway", "--all - one-way"),
        (r"\(aqa\(aq \(lqb\(rq \[lq]c\[rq] \(Fod\(Fc", '\'a\' "b" "c" «d»'),
        (r"~ is \(ti and ^ is \(ha", "~ is ~ and ^ is ^"),
        (r"\en, \e. or \(rs.", r"\n, \. or \."),
        (r"\s-1small\s0 \&.dot a\|b a\%b", "small .dot ab ab"),
        (r"\h'2n'x\v'-1m'y \w'abc'z", "xy z"),
        (r"visible \" a comment", "visible"),
        (r"\m[blue]link\m[] \n(.x \*(Tm \(co", "link"),
    ],
)
def test_escapes_become_characters(roff, text):
    assert plain_text(roff) == text + "\n"


@pytest.mark.parametrize(
    ("roff", "text"),
    [
        (".B one two", "one two"),
        ('.I "one  two" three', "one  two three"),
        (".BR read (2),", "read(2),"),
        ('.RB [ \\-a " file" ]', "[-a file]"),
        ('.IR "say ""it"" now" .', 'say "it" now.'),
        (".SM A\n.SB B", "A\nB"),
        (r".B one\ two", "one two"),
        ("'br\nx", "x"),
        ("a\n.PP\nb", "a\n\nb"),
        ("a\n.PP\n.PP\n.RS\nb", "a\n\nb"),
        ('.TH READ 2 2020\n.\\" comment\na', "a"),
        (". B spaced", "spaced"),
    ],
)
def test_macros_become_lines(roff, text):
    assert plain_text(roff) == text + "\n"


def test_a_section_is_set_off_by_an_empty_line():
    assert (
        plain_text(".SH NAME\nread\n.SS More \\- of it\nx") == "NAME\nread\n\nMore - of it\nx\n"
    )


def test_sections_on_authors_and_licences_are_left_out_with_their_subsections():
    page = ".SH COPYRIGHT\nGPL\n.SS History\nold\n.SH ÜBERSETZUNG\nname\n.SH USE\nshort\n.SS Author\nkept"
    assert plain_text(page) == "USE\nshort\n\nAuthor\nkept\n"


def test_tables_are_left_out_and_an_alias_is_empty():
    assert plain_text("a\n.TS\nl l.\n1\t2\n.TE\nb") == "a\nb\n"
    assert plain_text(".so man2/read.2\n") == ""


def wheel(cache, files, name="Django"):
    """Write a wheel into the cache and return its entry in a recipe."""
    cache.mkdir(exist_ok=True)
    with zipfile.ZipFile(cache / "new", "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    sha256 = hashlib.sha256((cache / "new").read_bytes()).hexdigest()
    (cache / "new").rename(cache / f"{sha256[:16]}.wheel")
    return {"wheel": name, "version": "1.0", "sha256": sha256}


def test_a_wheel_gives_its_source_files_without_tests_locales_and_short_ones(tmp_path):
    kept = {"a/b.py": LONG + "b", "a/latest.py": LONG + "c"}
    left = {
        "a/tests/x.py": LONG,
        "a/locale/de/f.py": LONG,
        "a/x.txt": LONG,
        "a/s.py": "x" * 799,
    }
    package = wheel(tmp_path, kept | left)
    (found,) = read_documents({"code": [package]}, tmp_path).values()
    assert {d.key: d.text for d in found} == kept
    assert {d.domain for d in found} == {"code"}


def test_a_text_that_stands_twice_is_read_once_and_documents_are_sorted(tmp_path):
    packages = [
        wheel(tmp_path, {"z.py": LONG}),
        wheel(tmp_path, {"b.py": LONG, "a.py": LONG + "!"}),
    ]
    (found,) = read_documents({"code": packages}, tmp_path).values()
    assert [d.key for d in found] == ["a.py", "z.py"]


@pytest.fixture
def fake_commands(monkeypatch):
    """Stand in for apt-get, pip and dpkg-deb: what they were asked, and what they write."""
    asked = []

    def run(command, cwd=None, **_):
        asked.append(command)
        if command[0] == "dpkg-deb":
            for language in ("fr", "de"):
                folder = command[-1] / "usr/share/man" / language / "man2"
                folder.mkdir(parents=True)
                (folder / "read.2.gz").write_bytes(
                    gzip.compress(f".B {language}\n{LONG}".encode())
                )
                (folder / "alias.2.gz").symlink_to("read.2.gz")
        else:
            (cwd / "downloaded").write_bytes(b"package")

    monkeypatch.setattr("scripts.zoo.texts.subprocess.run", run)
    return asked


SHA = hashlib.sha256(b"package").hexdigest()


def test_a_missing_package_is_downloaded_at_its_exact_version_once(tmp_path, fake_commands):
    deb = {"deb": "manpages", "version": "6-1", "sha256": SHA}
    first, second = fetch(deb, tmp_path), fetch(deb, tmp_path)
    fetch({"wheel": "Django", "version": "5.2", "sha256": SHA}, tmp_path)
    assert first == second == tmp_path / f"{SHA[:16]}.deb"
    assert fake_commands[0] == ["apt-get", "download", "manpages=6-1"]
    assert fake_commands[1][1:4] == ["-m", "pip", "download"]
    assert fake_commands[1][-1] == "Django==5.2"
    assert len(fake_commands) == 2


def test_translations_of_a_page_share_its_key_and_so_its_split(tmp_path, fake_commands):
    deb = {"deb": "manpages", "version": "6-1", "sha256": SHA}
    (found,) = read_documents({"french": [deb]}, tmp_path).values()
    assert [d.key for d in found] == ["read.2", "read.2"]
    assert [d.text[:3] for d in found] == ["de\n", "fr\n"]
    assert {d.split for d in found} == {"train"}
    assert fake_commands[-1][:2] == ["dpkg-deb", "-x"]


def test_a_package_with_another_hash_is_refused_and_not_kept(tmp_path, fake_commands):
    assert fake_commands == []
    deb = {"deb": "manpages", "version": "6-1", "sha256": "0" * 64}
    message = f"manpages 6-1: expected sha256 {'0' * 64}, got {SHA}; fetch that exact version"
    with pytest.raises(ValueError, match=message):
        fetch(deb, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_says_the_command_its_answer_and_what_to_do(tmp_path, monkeypatch):
    def fail(command, **_):
        raise subprocess.CalledProcessError(1, command, stderr="no network\n")

    monkeypatch.setattr("scripts.zoo.texts.subprocess.run", fail)
    deb = {"deb": "manpages", "version": "6-1", "sha256": SHA}
    message = (
        "could not fetch manpages 6-1 with `apt-get download manpages=6-1`: no network\n"
        f"Fetch it by hand and place it at {tmp_path}/{SHA[:16]}.deb"
    )
    with pytest.raises(ValueError, match=message):
        fetch(deb, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("split", "keys"),
    [
        ("test", ["printf.3", "chmod.1", "man.1", "django/db/models/fields/mixins.py"]),
        ("validation", ["signal.7", "kill.1", "sed.1"]),
        ("train", ["read.2", "write.2", "fork.2", "2 + 2 ="]),
    ],
)
def test_a_key_keeps_its_split_for_ever(split, keys):
    assert [split_of(key) for key in keys] == [split] * len(keys)


def test_about_12_percent_are_for_testing_and_8_for_validation():
    counts = Counter(split_of(f"page{n}") for n in range(20_000))
    assert counts["test"] / 20_000 == pytest.approx(0.12, abs=0.008)
    assert counts["validation"] / 20_000 == pytest.approx(0.08, abs=0.006)


def test_sums_are_right():
    rng = random.Random(0)
    for exercise in (addition(rng) for _ in range(100)):
        first, plus, second, equals = exercise.prompt.split(" ")
        assert (plus, equals) == ("+", "=")
        assert int(exercise.answer) == int(first) + int(second)
    assert Exercise(prompt="1 + 2 =", answer="3").text == "1 + 2 = 3\n"


def test_each_of_the_five_kinds_of_number_exercise_has_its_right_answer():
    rng = random.Random(0)
    drawn = [numbers(rng) for _ in range(500)]
    kinds = Counter(re.sub(r"\d+", "N", exercise.prompt) for exercise in drawn)
    assert kinds.keys() == RIGHT.keys()
    assert min(kinds.values()) > 60  # 100 of each are expected, with a standard deviation of 9
    for exercise in drawn:
        asked = [int(number) for number in re.findall(r"\d+", exercise.prompt)]
        assert int(exercise.answer) == RIGHT[re.sub(r"\d+", "N", exercise.prompt)](*asked)


RIGHT = {
    "N + N =": lambda first, second: first + second,
    "larger of N, N =": lambda first, second: first if first > second else second,
    "double N =": lambda number: number + number,
    "after N =": lambda number: number + 1,
    "next in N, N, N =": lambda first, second, third: third + (second - first),
}


def test_sums_are_the_only_number_exercises_of_mathematics():
    prompts = [exercise.prompt for exercise in islice(draw("mathematics", "train", 0, []), 50)]
    assert all(re.fullmatch(r"\d+ \+ \d+ =", prompt) for prompt in prompts)


def test_each_format_is_written_as_its_name_says():
    answers = {}
    rng = random.Random(0)
    while len(answers) < 60:  # 5 formats of 12 choices of two or three out of three words
        exercise = output_format(rng, ["ab", "cd", "ef"])
        answers[exercise.prompt] = exercise.answer
    assert answers["JSON: ab, cd ="] == '["ab", "cd"]'
    assert answers["reverse: ab, cd, ef ="] == "ef, cd, ab"
    assert answers["path: cd, ab ="] == "/cd/ab"
    assert answers["tags: ab, ef, cd ="] == "<ab><ef><cd>"
    assert answers["last: ab, ef, cd ="] == "cd"


@pytest.mark.parametrize("kind", ["mathematics", "numbers", "format"])
def test_exercises_follow_from_the_seed_and_splits_share_none(kind):
    def first(split, seed):
        return list(islice(draw(kind, split, seed, ["one", "two", "three", "four"]), 50))

    assert first("train", 1) == first("train", 1) != first("train", 2)
    asked = [{e.prompt for e in first(s, 1)} for s in ("train", "validation", "test")]
    assert len(set.union(*asked)) == sum(map(len, asked))


def test_common_words_are_the_most_frequent_first_and_alike_by_the_alphabet():
    texts = ["two one three two", "Two is it a lengthywording one the the the"]
    assert common_words(texts, 4) == ["the", "one", "two", "three"]
    assert common_words(texts, 1) == ["the"]


def test_only_training_documents_are_trained_on():
    pages = [
        Document(domain="english", key=key, text=key) for key in ("read.2", "man.1", "sed.1")
    ]
    material = Material(documents={"english": pages}, words=["one", "two", "three"], seed=0)
    assert material.training_texts("english") == ["read.2"]
    for domain in ("mathematics", "numbers", "format"):
        lines = material.training_texts(domain)[0].splitlines()
        assert len(lines) == 100
        assert {split_of(line[: line.index("=") + 1]) for line in lines} == {"train"}


def test_half_of_an_experts_windows_are_of_its_own_domains():
    recipe = {"mixes": {"general": {"english": 3.0, "code": 1.0, "format": 1.0}}}
    assert mix_of(recipe, {"mix": "general"}) == {"english": 0.6, "code": 0.2, "format": 0.2}
    own = mix_of(recipe, {"mix": "general", "domains": ["code", "format"]})
    assert own == pytest.approx({"english": 0.3, "code": 0.35, "format": 0.35})


def test_a_domain_that_the_mix_does_not_have_gets_its_share_of_the_own_half():
    recipe = {"mixes": {"general": {"english": 3.0, "code": 1.0}}}
    one = mix_of(recipe, {"mix": "general", "domains": ["numbers"]})
    assert one == {"english": 0.375, "code": 0.125, "numbers": 0.5}
    two = mix_of(recipe, {"mix": "general", "domains": ["numbers", "code"]})
    assert two == {"english": 0.375, "code": 0.375, "numbers": 0.25}


def test_experts_are_the_models_of_exactly_one_domain():
    plans = {"a": {"domains": ["numbers"]}, "b": {}, "c": {"domains": ["numbers", "code"]}}
    assert experts_of({"models": plans}) == {"a": "numbers"}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["the cat and the dog " * 20, "12 + 34 = 46\n" * 20], 300)


@pytest.mark.parametrize(
    "text", ["the cat\n", "  Zwölf «chats» 🐈\t", "a  b\n\n    return x", "17 € 8"]
)
def test_a_tokenizer_gives_every_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_digit_is_a_token_of_its_own(tokenizer):
    assert len(tokenizer) <= 300
    assert tokenizer.tokenize("2024=1212") == ["2", "0", "2", "4", "=", "1", "2", "1", "2"]


def test_a_stream_has_the_end_of_text_behind_every_text(tokenizer):
    stream = tokenize(tokenizer, ["the cat", "the"])
    assert stream.dtype == np.uint16
    assert tokenizer.decode(stream) == f"the cat{END_OF_TEXT}the{END_OF_TEXT}"
    assert stream[-1] == tokenizer.eos_token_id == 0


STREAMS = {"a": np.arange(100, dtype=np.uint16), "b": np.arange(200, 1000, dtype=np.uint16)}


def test_a_window_is_consecutive_tokens_of_one_domain():
    batch = next(batches(STREAMS, {"a": 1, "b": 1}, rows=64, length=8, seed=0))
    assert batch.shape == (64, 8)
    assert (batch[:, 1:] - batch[:, :-1] == 1).all()
    assert not ((batch[:, 0] < 100) & (batch[:, -1] >= 100)).any()


def test_the_same_seed_gives_the_same_batches_whatever_the_order_of_the_mix():
    def three(mix, seed):
        return [
            b.tolist() for b in islice(batches(STREAMS, mix, rows=4, length=8, seed=seed), 3)
        ]

    drawn = three({"a": 1, "b": 3}, 5)
    assert drawn == three({"b": 3, "a": 1}, 5) != three({"a": 1, "b": 3}, 6)
    assert drawn[0] != drawn[1]


def test_domains_come_in_the_shares_of_the_mix():
    batch = next(batches(STREAMS, {"a": 1, "b": 3}, rows=4000, length=2, seed=0))
    assert (batch[:, 0] < 100).float().mean().item() == pytest.approx(0.25, abs=0.03)
