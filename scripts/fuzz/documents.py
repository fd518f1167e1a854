"""Tiny valid folders around a merge that the fuzzer begins with: kept merges, recipes, GGUF files."""

import hashlib
import json
import struct
from pathlib import Path

import yaml

from scripts.fuzz.folders import Files, model_files
from seme.publishing.manifest import MANIFEST_NAME

RECIPE = "recipe.yml"
"""Name of the configuration of mergekit."""
_STRING, _ARRAY, _U32, _F32 = 8, 9, 4, 6
"""Types of metadata in a GGUF file."""


def kept_files() -> Files:
    """Return the files of a kept merge, with a manifest that is right."""
    files = model_files("llama")
    described = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in files.items()
    }
    model = {
        "name": "a", "entry": {"location": "a"}, "commit": None, "base_commit": None,
        "content_hash": "0" * 32, "licence": "mit", "base_licence": None, "files": described,
        "base_files": {}, "more": {},
    }  # fmt: skip
    method = {"_target_": "baselines.average.merge", "_partial_": True, "weights": None}
    manifest = {
        "schema_version": 1, "command": "python run.py method=average",
        "method": {"name": "average", "config": method, "code": "0" * 16, "numbers": 1},
        "settings": {"seed": 0, "dtype": None, "include": [], "exclude": [], "tokens": "same"},
        "pool": "a + b", "pivot": model, "sources": [model],
        "versions": {"libraries": {"torch": "2.13.0"}}, "n_parameters": 100, "n_bytes": 1000,
        "files": described,
    }  # fmt: skip
    return {**files, MANIFEST_NAME: json.dumps(manifest).encode(), "README.md": b"# a card"}


def recipe_files(base: Path) -> Files:
    """Return a configuration of mergekit that uses most of what is understood."""
    model = str(base)
    weight = [{"filter": "mlp", "value": [0.1, 0.9]}, {"value": 0.5}]
    recipe = {
        "merge_method": "ties",
        "base_model": model,
        "slices": [
            {
                "sources": [
                    {"model": model, "layer_range": [0, 1]},
                    {
                        "model": "org/a@main+org/lora",
                        "layer_range": [0, 1],
                        "parameters": {"weight": weight, "density": 0.5},
                    },
                ],
                "parameters": {"lambda": [0, 1]},
            }
        ],
        "parameters": {"normalize": True, "int8_mask": False},
        "dtype": "float32",
        "tokenizer_source": "base",
    }
    return {RECIPE: yaml.safe_dump(recipe, sort_keys=False).encode()}


def gguf_files() -> Files:
    """Return a GGUF file of two tensors with metadata of every kind."""
    entries = {
        "general.architecture": (_STRING, _text("llama")),
        "general.alignment": (_U32, struct.pack("<I", 32)),
        "llama.rope.freq_base": (_F32, struct.pack("<f", 1e4)),
        "tokenizer.ggml.tokens": (_ARRAY, struct.pack("<IQ", _STRING, 2) + _text("a") + _text("b")),
        "tokenizer.ggml.types": (_ARRAY, struct.pack("<IQ", _U32, 2) + bytes(8)),
    }  # fmt: skip
    shapes = {"token_embd.weight": (8, 4), "output_norm.weight": (8,)}
    table, offset = b"", 0
    for name, shape in shapes.items():
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        table += _text(name) + sizes + struct.pack("<IQ", 0, offset)
        offset += 4 * 8 * (4 if len(shape) > 1 else 1)
    metadata = b"".join(
        _text(key) + struct.pack("<I", kind) + value for key, (kind, value) in entries.items()
    )
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(entries)) + metadata + table
    return {"model.gguf": head + bytes(-len(head) % 32) + bytes(offset)}


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()
