"""Package texts: markup stripped, hashes checked, split by document."""

import gzip
import hashlib
import subprocess
import zipfile
from collections import Counter

import pytest

from scripts.zoo.texts import fetch, plain_text, read_documents, split_of

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
def test_roff_escapes_are_decoded(roff, text):
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
def test_roff_macros_become_lines(roff, text):
    assert plain_text(roff) == text + "\n"


def test_sections_are_separated_by_an_empty_line():
    assert (
        plain_text(".SH NAME\nread\n.SS More \\- of it\nx") == "NAME\nread\n\nMore - of it\nx\n"
    )


def test_author_and_licence_sections_are_removed():
    page = (
        ".SH COPYRIGHT\nGPL\n.SS History\nold\n.SH ÜBERSETZUNG\nname\n"
        ".SH USE\nshort\n.SS Author\nkept"
    )
    assert plain_text(page) == "USE\nshort\n\nAuthor\nkept\n"


def test_tables_and_aliases_are_removed():
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


def test_wheel_yields_sources_without_tests_locales_and_short_files(tmp_path):
    kept = {"a/b.py": LONG + "b", "a/latest.py": LONG + "c"}
    left = {
        "a/tests/x.py": LONG,
        "a/locale/de/f.py": LONG,
        "a/x.txt": LONG,
        "a/s.py": "x" * 799,
    }
    package = wheel(tmp_path, kept | left)
    (documents,) = read_documents({"code": [package]}, tmp_path).values()
    assert {d.key: d.text for d in documents} == kept
    assert {d.domain for d in documents} == {"code"}


def test_documents_are_deduplicated_and_sorted(tmp_path):
    packages = [
        wheel(tmp_path, {"z.py": LONG}),
        wheel(tmp_path, {"b.py": LONG, "a.py": LONG + "!"}),
    ]
    (documents,) = read_documents({"code": packages}, tmp_path).values()
    assert [d.key for d in documents] == ["a.py", "z.py"]


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


def test_missing_package_is_downloaded_once_at_its_version(tmp_path, fake_commands):
    deb = {"deb": "manpages", "version": "6-1", "sha256": SHA}
    first, second = fetch(deb, tmp_path), fetch(deb, tmp_path)
    fetch({"wheel": "Django", "version": "5.2", "sha256": SHA}, tmp_path)
    assert first == second == tmp_path / f"{SHA[:16]}.deb"
    assert fake_commands[0] == ["apt-get", "download", "manpages=6-1"]
    assert fake_commands[1][1:4] == ["-m", "pip", "download"]
    assert fake_commands[1][-1] == "Django==5.2"
    assert len(fake_commands) == 2


def test_translations_share_a_key_and_split(tmp_path, fake_commands):
    deb = {"deb": "manpages", "version": "6-1", "sha256": SHA}
    (documents,) = read_documents({"french": [deb]}, tmp_path).values()
    assert [d.key for d in documents] == ["read.2", "read.2"]
    assert [d.text[:3] for d in documents] == ["de\n", "fr\n"]
    assert {d.split for d in documents} == {"train"}
    assert fake_commands[-1][:2] == ["dpkg-deb", "-x"]


def test_package_with_another_hash_is_refused(tmp_path, fake_commands):
    assert fake_commands == []
    deb = {"deb": "manpages", "version": "6-1", "sha256": "0" * 64}
    message = f"manpages 6-1: expected sha256 {'0' * 64}, got {SHA}; fetch that exact version"
    with pytest.raises(ValueError, match=message):
        fetch(deb, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_failed_download_names_command_error_and_path(tmp_path, monkeypatch):
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
def test_split_of_a_key_is_fixed(split, keys):
    assert [split_of(key) for key in keys] == [split] * len(keys)


def test_splits_have_12_percent_test_and_8_percent_validation():
    counts = Counter(split_of(f"page{n}") for n in range(20_000))
    assert counts["test"] / 20_000 == pytest.approx(0.12, abs=0.008)
    assert counts["validation"] / 20_000 == pytest.approx(0.08, abs=0.006)
