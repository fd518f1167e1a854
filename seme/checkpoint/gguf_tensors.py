"""Tensors of GGUF models: matched with those of transformers, dequantised by blocks of rows.

llama.cpp changes some tensors when it writes them: it puts the two halves of each head's rotary
dimensions next to each other (Llama) and adds 1 to the gains of norms (Gemma). Both are undone
(``convert_hf_to_gguf.py`` of llama.cpp, ``modeling_gguf_pytorch_utils.py`` of transformers).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seme.checkpoint.gguf_header import GgufTensor
from seme.checkpoint.gguf_model import GgufModel
from seme.checkpoint.gguf_rotary import FACTORS
from seme.checkpoint.safetensors_file import OpenFile, TensorSpec

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BLOCK_ELEMENTS = 1 << 22
"""Elements of a block of rows, 16 MiB in float32; a row or a head is never split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """What llama.cpp stores otherwise than transformers."""

    interleaved_heads: bool = False
    """Queries and keys: dimensions that are rotated together are neighbours in each head."""
    shifted_norms: bool = False
    """Gains of norms are stored with 1 added."""


CONVENTIONS: Mapping[str, Convention] = {
    "gemma2": Convention(shifted_norms=True),
    "gemma3": Convention(shifted_norms=True),
    "llama": Convention(interleaved_heads=True),
    "qwen2": Convention(),
    "qwen3": Convention(),
}
"""Architectures that are supported, as llama.cpp names them; Mistral is among ``llama``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedTensor:
    """A tensor of a GGUF model as transformers has it."""

    stored: GgufTensor
    spec: TensorSpec
    """Dtype and shape once converted."""
    n_heads: int | None = None
    """Heads whose rows are put back in order; None where rows stay."""
    shift: int = 0
    """Subtracted from every element."""

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Read, dequantise and convert the tensor, some rows at a time.

        Yields:
            Index of the first element in the flat tensor, and the elements, flat.

        Raises:
            ValueError: If the file has become shorter since its header was read.
        """
        shape = self.spec.shape
        rows = 1 if self.stored.is_quantised and len(shape) == 1 else shape[0]
        columns = math.prod(shape) // rows
        step = max(1, _BLOCK_ELEMENTS // columns)
        if self.n_heads is not None:
            head = rows // self.n_heads
            step = max(head, step - step % head)
        file = OpenFile(self.stored.path)
        for start in range(0, rows, step):
            values = self._read(file, start, min(step, rows - start), rows)
            yield start * columns, self._change(values, rows).to(self.spec.dtype).reshape(-1)

    def _read(self, file: OpenFile, start: int, n_rows: int, rows: int) -> Tensor:
        """Read rows as (n_rows, columns), dequantised to float32 or in their own dtype."""
        row_bytes = self.stored.nbytes // rows
        packed = np.empty((n_rows, row_bytes), dtype=np.uint8)
        file.read_into(packed.reshape(-1).data, self.stored.offset + start * row_bytes)
        if not self.stored.is_quantised:
            return torch.from_numpy(packed).view(_DTYPES[self.stored.type_name])
        from gguf import GGMLQuantizationType, dequantize  # noqa: PLC0415 (an extra)

        return torch.from_numpy(dequantize(packed, GGMLQuantizationType[self.stored.type_name]))

    def _change(self, values: Tensor, rows: int) -> Tensor:
        """Undo what llama.cpp does to rows of whole heads, (n_rows, columns)."""
        if self.n_heads is not None:
            pairs = values.view(-1, rows // self.n_heads // 2, 2, values.shape[1])
            return pairs.transpose(1, 2).reshape(values.shape)
        return values.float() - self.shift if self.shift else values


def check_architecture(model: GgufModel) -> None:
    """Refuse a model of an architecture that is not supported, such as a vision tower.

    Raises:
        ValueError: Names the architecture and those that are supported.
    """
    kind = model.metadata.get("general.type", "model")
    if kind != "model" or model.architecture == "clip":
        raise ValueError(
            f"{model.file} is of the type {kind} ({model.architecture}), not a language model: "
            "give the model's own file"
        )
    if model.architecture not in CONVENTIONS:
        raise ValueError(
            f"{model.file} has the architecture {model.architecture!r}, expected one of "
            f"{', '.join(CONVENTIONS)}: take the model in safetensors"
        )


def match_tensors(
    model: GgufModel, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]
) -> dict[str, ConvertedTensor]:
    """Match the tensors of a model with those that transformers expects.

    Args:
        model: A model of a supported architecture.
        shapes: Names and shapes in transformers, without a tied LM head.
        config: The model's ``config.json``.

    Returns:
        Name in transformers to the tensor.

    Raises:
        ValueError: If one of the two lacks a tensor, or shapes differ.
    """
    names = _names_in_gguf(model.architecture, shapes, int(config["num_hidden_layers"]))
    missing = sorted(names.keys() - model.tensors.keys())
    extra = sorted(model.tensors.keys() - names.keys() - {FACTORS})
    if missing or extra:
        raise ValueError(
            f"{model.file} and its architecture {model.architecture} as transformers builds it "
            f"name different tensors: missing {missing[:3]}, unknown {extra[:3]}: take the "
            "model in safetensors"
        )
    return {
        name: _converted(model, gguf_name, name, shapes[name], config)
        for gguf_name, name in names.items()
    }


def _names_in_gguf(
    architecture: str, shapes: Mapping[str, tuple[int, ...]], n_layers: int
) -> dict[str, str]:
    """Name in llama.cpp to name in transformers; a name unknown to llama.cpp stands for itself."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map  # noqa: PLC0415 (an extra)

    (number,) = [key for key, name in MODEL_ARCH_NAMES.items() if name == architecture]
    known = get_tensor_name_map(number, n_layers)
    return {known.get_name(name, (".weight", ".bias")) or name: name for name in shapes}


def _converted(
    model: GgufModel,
    gguf_name: str,
    name: str,
    shape: tuple[int, ...],
    config: Mapping[str, Any],
) -> ConvertedTensor:
    """Convert one tensor; see :func:`match_tensors`."""
    stored = model.tensors[gguf_name]
    if stored.shape != shape:
        raise ValueError(
            f"{gguf_name} in {model.file} has the shape {list(stored.shape)}, expected "
            f"{list(shape)} as of {name} in transformers: its metadata and tensors disagree"
        )
    convention = CONVENTIONS[model.architecture]
    n_heads = _heads(gguf_name, config) if convention.interleaved_heads else None
    shift = int(convention.shifted_norms and gguf_name.endswith("norm.weight"))
    own = _DTYPES.get(stored.type_name, torch.float32)
    dtype = torch.float32 if model.is_quantised or shift else own
    return ConvertedTensor(
        stored=stored,
        spec=TensorSpec(dtype=dtype, shape=shape),
        n_heads=n_heads,
        shift=shift,
    )


def _heads(gguf_name: str, config: Mapping[str, Any]) -> int | None:
    """Heads of a tensor of queries or keys; None for other tensors."""
    n_heads = int(config["num_attention_heads"])
    if ".attn_q." in gguf_name:
        return n_heads
    if ".attn_k." in gguf_name:
        return int(config.get("num_key_value_heads") or n_heads)
    return None
