"""Structure of results/LOG.md: dated entries, newest first, each with the same five items."""

import re
from pathlib import Path

LOG = Path(__file__).parents[1] / "results/LOG.md"
KEYS = ["tried", "why", "result", "decision", "commit"]


def test_entries_have_a_date_five_keys_and_a_commit():
    entries = re.split(r"^## ", LOG.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert entries
    for entry in entries:
        assert re.match(r"\d{4}-\d\d-\d\d  \S", entry), entry
        assert re.findall(r"^- \*\*(\w+)\*\*: \S", entry, re.MULTILINE) == KEYS, entry
        assert re.search(r"^- \*\*commit\*\*: `[0-9a-f]{7,40}`", entry, re.MULTILINE), entry


def test_entries_are_newest_first():
    dates = re.findall(r"^## (\S+)", LOG.read_text(encoding="utf-8"), re.MULTILINE)
    assert dates == sorted(dates, reverse=True)
