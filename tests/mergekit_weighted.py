"""Configurations of weighted, interpolated and chosen models, in mergekit's format.

Written for these tests in the style of model cards. ``BASE``, ``A``, ``B`` and ``C`` stand for folders of
one architecture with four layers.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RecipeText:
    """A configuration, and how the run that it becomes compares with mergekit's result."""

    text: str
    as_mergekit: bool = False
    tolerance: float = 2e-6
    """Largest difference of an element, absolute; weights are of the order of 0.1."""


WEIGHTED = {
    "linear_of_a_model_and_an_adapter": RecipeText("""
models:
  - model: A
    parameters: {weight: 0.6}
  - model: {model: {path: BASE}, lora: {path: LORA}}
    parameters: {weight: 0.4}
merge_method: linear
dtype: float32
"""),
    "task_arithmetic_of_adapters_on_two_models": RecipeText("""
models:
  - model: {model: {path: BASE}, lora: {path: LORA}}
    parameters: {weight: 0.7}
  - model: {model: {path: B}, lora: {path: LORA}}
    parameters: {weight: 0.5}
merge_method: task_arithmetic
base_model: BASE
dtype: float32
"""),
    "linear_two": RecipeText("""
models:
  - model: A
    parameters: {weight: 0.6}
  - model: B
    parameters: {weight: 0.4}
merge_method: linear
dtype: float32
"""),
    "linear_unnormalised_weights": RecipeText("""
merge_method: linear
models:
  - {model: A, parameters: {weight: 1.0}}
  - {model: B, parameters: {weight: 0.3}}
  - {model: C, parameters: {weight: 0.5}}
"""),
    "linear_with_listed_base": RecipeText("""
merge_method: linear
base_model: BASE
models:
  - {model: BASE, parameters: {weight: 0.2}}
  - {model: A, parameters: {weight: 0.5}}
  - {model: C, parameters: {weight: 0.3}}
dtype: float32
"""),
    "linear_weight_gradients": RecipeText("""
merge_method: linear
models:
  - model: A
    parameters:
      weight: [1, 0.5, 0.25]
  - model: B
    parameters:
      weight: [0, 0.5, 1]
dtype: float32
"""),
    "linear_filters_of_their_own_per_model": RecipeText("""
merge_method: linear
models:
  - model: A
    parameters:
      weight:
        - {filter: mlp, value: [0.1, 0.9]}
        - {filter: embed_tokens, value: 0.7}
        - value: 0.5
  - model: B
    parameters:
      weight:
        - {filter: self_attn, value: 0.8}
        - value: [0.4, 0.6, 0.2]
"""),
    "linear_global_weight": RecipeText("""
merge_method: linear
models:
  - {model: A}
  - {model: B, parameters: {weight: 3}}
parameters:
  weight: 1
"""),
    "linear_bfloat16": RecipeText("""
merge_method: linear
models:
  - {model: A, parameters: {weight: 0.5}}
  - {model: B, parameters: {weight: 0.5}}
dtype: bfloat16
""", tolerance=8e-3),
    "linear_float32_written_as_float16": RecipeText("""
merge_method: linear
models:
  - {model: A, parameters: {weight: 0.5}}
  - {model: B, parameters: {weight: 0.5}}
dtype: float32
out_dtype: float16
""", tolerance=1e-3),
    "linear_sum_of_weights": RecipeText("""
merge_method: linear
models:
  - {model: A, parameters: {weight: 0.5}}
  - {model: B, parameters: {weight: 0.3}}
parameters: {normalize: false}
""", as_mergekit=True),
    "slerp_half": RecipeText("""
merge_method: slerp
base_model: A
models:
  - model: A
  - model: B
parameters:
  t: 0.5
dtype: float32
"""),
    "slerp_base_not_listed": RecipeText("""
merge_method: slerp
base_model: A
models:
  - model: B
parameters: {t: 0.25}
"""),
    "slerp_slices_with_filters": RecipeText("""
slices:
  - sources:
      - model: A
        layer_range: [0, 4]
      - model: B
        layer_range: [0, 4]
merge_method: slerp
base_model: A
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: float32
"""),
    "slerp_gradient_alone": RecipeText("""
merge_method: slerp
base_model: B
models: [{model: A}, {model: B}]
parameters:
  t: [0.1, 0.3, 0.9]
"""),
    "slerp_slices_in_places": RecipeText("""
merge_method: slerp
base_model: A
slices:
  - sources: [{model: A, layer_range: [0, 1]}, {model: B, layer_range: [0, 1]}]
    parameters: {t: 0.2}
  - sources: [{model: A, layer_range: [1, 4]}, {model: B, layer_range: [1, 4]}]
    parameters:
      t:
        - {filter: down_proj, value: 0.9}
        - value: [0.4, 0.8]
"""),
    "slerp_filter_that_matches_nothing": RecipeText("""
merge_method: slerp
base_model: A
models: [{model: A}, {model: B}]
parameters:
  t:
    - {filter: block_sparse_moe, value: 0.9}
    - {filter: lm_head, value: 1.0}
    - {value: 0.3}
"""),
    "multislerp_with_base": RecipeText("""
merge_method: multislerp
base_model: BASE
models:
  - {model: A, parameters: {weight: 0.5}}
  - {model: B, parameters: {weight: 0.3}}
  - {model: C, parameters: {weight: [0.2, 0.4]}}
dtype: float32
""", tolerance=1e-5),
    "multislerp_without_base": RecipeText("""
merge_method: multislerp
models:
  - {model: A, parameters: {weight: 1}}
  - {model: B, parameters: {weight: 1}}
  - {model: C, parameters: {weight: 2}}
""", tolerance=1e-5),
    "karcher_default": RecipeText("""
merge_method: karcher
models: [{model: A}, {model: B}, {model: C}]
dtype: float32
""", tolerance=1e-5),
    "karcher_tighter": RecipeText("""
merge_method: karcher
models: [{model: A}, {model: B}]
parameters: {max_iter: 100, tol: 1e-7}
""", tolerance=1e-5),
    "model_stock_three": RecipeText("""
merge_method: model_stock
base_model: BASE
models: [{model: A}, {model: B}, {model: C}]
dtype: float32
""", tolerance=1e-5),
    "model_stock_listed_base_and_ignored_weights": RecipeText("""
merge_method: model_stock
base_model: BASE
models:
  - model: BASE
  - {model: A, parameters: {weight: 0.3}}
  - {model: B, parameters: {density: 0.5}}
parameters: {int8_mask: true, normalize: true}
""", tolerance=1e-5),
}  # fmt: skip
