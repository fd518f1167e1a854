"""Mutations of folders, as strategies of hypothesis: of bytes, of JSON values, of file kinds."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from scripts.fuzz.folders import Files


@dataclass(frozen=True, slots=True)
class Raw:
    """JSON text that stands as it is; of values that no Python object writes."""

    text: str


_MAX_LEVELS = 60
"""Most levels of a document that is edited part by part."""
_MOST_YAML_BYTES = 20_000
"""Most bytes of a YAML file that is edited part by part; PyYAML takes minutes for some megabytes."""
_TEXTS = [
    *("", "a", "0", "x" * 300, "x" * 5000, "\ud800", "a\ud83d", "\x00", "a\nb", "\u0130", " "),
    *(
        "..",
        "../x",
        "/etc/passwd",
        "~nouser/x",
        "a/b",
        "a\\b",
        "{}",
        "${x}",
        "{",
        "LORA",
        "olora",
    ),
    *("model.layers.999999999999.x", "model.embed_tokens.weight", "lm_head.weight", "F8_E4M3"),
    *(
        "([a-z_.]+)+!",
        "(?i)q_proj",
        "a{99999999999}",
        "((a{99}){99}){99}",
        "(" * 200,
        ".*.*.*x",
    ),
    *("BF16", "I8", "sliding_attention", "llama", "gemma2", "phi3", "yarn", "llama3", "<0xFF>"),
]
_NUMBERS = [
    *(0, 1, -1, 2, 3, 7, 255, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64, 10**30),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, 1e39, float("nan"), float("inf"), -float("inf")),
]
_RAW = [
    *(
        Raw("9" * 41),
        Raw("9" * 4200),
        Raw("-" + "1" * 5000),
        Raw("1e999"),
        Raw("1" * 400 + ".5"),
    ),
    *(Raw('{"a":1,"a":2}'), Raw("[" * 70 + "]" * 70), Raw("[" * 900 + "]" * 900), Raw("")),
    *(Raw("[" * 100_000), Raw("[" + "[]," * 300_000 + "1]"), Raw("[" + "9," * 300_000 + "9]")),
    *(
        Raw("[" + ",".join(["9" * 4200] * 500) + "]"),
        Raw('"' + "\\ud800" * 9 + '"'),
        Raw("tru"),
    ),
    *(Raw('{"a":' * 40 + "1" + "}" * 40), Raw("{" + '"x":{},' * 50_000 + '"y":1}'), Raw('"a')),
]
_YAML = [
    *("!!python/object/apply:os.system ['true']", "!!binary x", "!x y", "%TAG ! x", "---", "..."),
    *("&a [*a]", "&a {<<: *a}", "*a", "<<: 5", "? [a]\n: b", "? {a: b}\n: c", "- x", "\t", "  x"),
    *("2001-01-01", "1:30:00", "0x1f", "0b1", ".nan", "-.inf", "1e400", "1e-5", "~", "yes", "="),
    *("[" * 3000, "{a: " * 3000, "- " * 3000, "'", '"', "|", ">", "#", "@", "`", "x: y: z", "\ud7ff"),
    "a: &a [x,x,x,x,x,x,x,x,x]\n" + "\n".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]"
                                             for a, b in pairwise("abcdefghij")),
    "\n".join(f"k{i}: {i}" for i in range(6000)),
    "[" + "{model: x}, " * 5000 + "]",
]  # fmt: skip
"""Pieces of YAML: tags, anchors that grow, other scalars, deep and long ones."""
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(_NUMBERS),
    st.sampled_from(_TEXTS),
    st.integers(-5, 40),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=12),
)
VALUES = st.one_of(
    _LEAVES,
    st.sampled_from(_RAW),
    st.lists(_LEAVES, max_size=4),
    st.dictionaries(st.sampled_from(_TEXTS), _LEAVES, max_size=3),
    st.recursive(
        st.lists(_LEAVES, max_size=2), lambda inner: st.lists(inner, max_size=3), max_leaves=8
    ),
)
"""Values that replace one in a JSON document."""


@dataclass(slots=True)
class Folder:
    """A folder before it is written: files, and what stands in place of a file."""

    files: Files
    kinds: dict[str, str]
    """Name to ``pipe``, ``folder``, ``absent``, ``out``, ``dangling``, ``loop`` or ``inside``."""

    def write(self, path: Path, outside: Path) -> None:
        """Write the folder.

        Args:
            path: The new folder.
            outside: A folder with a file ``secret`` that links out of the folder lead to.
        """
        path.mkdir()
        for name, content in self.files.items():
            if name not in self.kinds:
                (path / name).write_bytes(content)
        targets = {
            "out": outside / "secret",
            "dangling": Path("nothing"),
            "inside": Path("config.json"),
        }
        for name, kind in self.kinds.items():
            if kind == "pipe":
                os.mkfifo(path / name)
            elif kind == "folder":
                (path / name).mkdir()
            elif kind != "absent":
                (path / name).symlink_to(targets.get(kind, Path(name)))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))


@st.composite
def mutated(draw: st.DrawFn, files: Files) -> tuple[Folder, list[str]]:
    """Draw a folder mutated in one to three places, and what was done."""
    folder, done = Folder(dict(files), {}), []
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        mutation = draw(st.sampled_from(_MUTATIONS))
        done.append(mutation(draw, folder))
    return folder, done


def _mutate_bytes(draw: st.DrawFn, folder: Folder) -> str:
    name = draw(st.sampled_from(sorted(folder.files)))
    content = folder.files[name]
    start = draw(st.integers(0, len(content)))
    stop = draw(st.integers(start, min(start + 40, len(content))))
    inserted = draw(st.binary(max_size=8))
    folder.files[name] = content[:start] + inserted + content[stop:]
    return f"bytes {start}:{stop} of {name} are {inserted!r}"


def _truncate(draw: st.DrawFn, folder: Folder) -> str:
    name = draw(st.sampled_from(sorted(folder.files)))
    length = draw(st.integers(0, len(folder.files[name])))
    folder.files[name] = folder.files[name][:length]
    return f"{name} has {length} bytes"


def _insert_yaml(draw: st.DrawFn, folder: Folder) -> str:
    """Insert a piece of YAML at the begin of a line, or behind its colon."""
    names = [name for name in sorted(folder.files) if name.endswith(".yml")]
    if not names:
        return _mutate_bytes(draw, folder)
    name = draw(st.sampled_from(names))
    lines = folder.files[name].split(b"\n")
    i, piece = draw(st.integers(0, len(lines) - 1)), draw(st.sampled_from(_YAML))
    key, colon, _ = lines[i].partition(b": ")
    behind = bool(colon) and draw(st.booleans())
    lines[i : i + behind] = [(key + colon if behind else b"") + piece.encode()]
    folder.files[name] = b"\n".join(lines)
    return f"line {i} of {name} is {piece[:60]!r}"


def _change_length(draw: st.DrawFn, folder: Folder) -> str:
    names = [name for name in sorted(folder.files) if name.endswith(".safetensors")]
    if not names:
        return _mutate_bytes(draw, folder)
    name = draw(st.sampled_from(names))
    length = draw(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 10**4)))
    folder.files[name] = length.to_bytes(8, "little") + folder.files[name][8:]
    return f"the header of {name} takes {length} bytes"


def _change_kind(draw: st.DrawFn, folder: Folder) -> str:
    more = [
        "tokenizer.model",
        "vocab_x.txt",
        "chat_template.jinja",
        "additional_chat_templates",
    ]
    name = draw(st.sampled_from([*sorted(folder.files), *more]))
    kinds = ["pipe", "folder", "absent", "out", "dangling", "loop", "inside"]
    folder.kinds[name] = draw(st.sampled_from(kinds))
    return f"{name} is {folder.kinds[name]}"


def _mutate_json(draw: st.DrawFn, folder: Folder) -> str:
    """Replace, rename, remove or add a value in a JSON file or a header."""
    names = [n for n in sorted(folder.files) if n.endswith((".json", ".yml", ".safetensors"))]
    if not names:
        return _mutate_bytes(draw, folder)
    name = draw(st.sampled_from(names))
    content = folder.files[name]
    if name.endswith(".yml") and len(content) > _MOST_YAML_BYTES:
        return _mutate_bytes(draw, folder)
    is_header = name.endswith(".safetensors")
    n_header = int.from_bytes(content[:8], "little") if is_header else 0
    try:
        if name.endswith(".yml"):
            document = yaml.safe_load(content)
        else:
            document = json.loads(content[8 : 8 + n_header] if is_header else content)
    except (ValueError, RecursionError, yaml.YAMLError):
        return _mutate_bytes(draw, folder)
    if not _is_small_tree(document):
        return _mutate_bytes(draw, folder)
    document, done = _edited(draw, document, whole=draw(st.integers(0, 30)) == 0)
    text = _written(document).encode("utf-8", "surrogatepass")
    if is_header:
        text = len(text).to_bytes(8, "little") + text + content[8 + n_header :]
    folder.files[name] = text
    return f"{name}: {done}"


def _is_small_tree(document: Any) -> bool:  # noqa: ANN401 (JSON)
    """Say whether a document has few levels and no part twice, as aliases of YAML make it."""
    seen, level = set[int](), [document]
    for _ in range(_MAX_LEVELS):
        inner = [part for part in level if isinstance(part, dict | list)]
        if not inner:
            return True
        if len({*map(id, inner)}) < len(inner) or seen & {*map(id, inner)}:
            return False
        seen |= {*map(id, inner)}
        level = [
            v for part in inner for v in (part.values() if isinstance(part, dict) else part)
        ]
    return False


def _edited(
    draw: st.DrawFn,
    document: Any,  # noqa: ANN401 (JSON)
    *,
    whole: bool,
) -> tuple[Any, str]:
    """Edit one place of a document, at a drawn path; the whole of it on request."""
    if whole or not isinstance(document, dict | list) or not document:
        near = type(document) is int and draw(st.booleans())
        value = draw(st.integers(0, 40) if near else VALUES)
        return value, f"= {value!r:.60}"
    is_object = isinstance(document, dict)
    keys = sorted(document, key=str) if is_object else range(len(document))
    key: Any = draw(st.sampled_from(list(keys)))
    action = draw(st.sampled_from([*["edit"] * 6, "remove", "rename", "add"]))
    if action == "remove":
        del document[key]
    elif isinstance(document, list) or action == "edit":
        document[key], done = _edited(draw, document[key], whole=draw(st.integers(0, 5)) == 0)
        return document, f"[{key!r:.40}]{done}"
    elif action == "rename":
        document[draw(st.sampled_from(_TEXTS))] = document.pop(key)
    else:
        document[draw(st.sampled_from(_TEXTS))] = draw(VALUES)
    return document, f" {action} {key!r:.40}"


def _written(document: Any) -> str:  # noqa: ANN401 (JSON)
    """Write JSON, with raw texts in their places."""
    if isinstance(document, Raw):
        return document.text
    if isinstance(document, dict):
        pairs = (f"{json.dumps(str(key))}:{_written(value)}" for key, value in document.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(document, list):
        return "[" + ",".join(map(_written, document)) + "]"
    if isinstance(document, str) and len(document) % 2:
        return json.dumps(document, ensure_ascii=False)
    return json.dumps(document, default=str)  # YAML has dates


_MUTATIONS: list[Callable[[st.DrawFn, Folder], str]] = [
    *[_mutate_json] * 12,
    _mutate_bytes,
    _truncate,
    _change_length,
    _change_kind,
    *[_insert_yaml] * 3,
]
