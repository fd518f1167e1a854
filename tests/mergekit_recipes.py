"""Configurations in mergekit's format, written for these tests in the style of model cards.

``BASE``, ``A``, ``B`` and ``C`` stand for folders of one architecture with four layers.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RecipeText:
    """A configuration, and how the run that it becomes compares with mergekit's result."""

    text: str
    as_mergekit: bool = False
    tolerance: float = 2e-6
    """Largest difference of an element, absolute; weights are of the order of 0.1."""


EQUAL = {
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
    "task_arithmetic_weights": RecipeText("""
merge_method: task_arithmetic
base_model: BASE
models:
  - {model: A, parameters: {weight: 0.35}}
  - {model: B, parameters: {weight: -0.2}}
  - {model: C, parameters: {weight: 0.6}}
dtype: float32
"""),
    "task_arithmetic_lambda_and_gradients": RecipeText("""
merge_method: task_arithmetic
base_model: BASE
models:
  - {model: BASE}
  - model: A
    parameters: {weight: [{filter: mlp, value: [0, 1]}, {value: 0.5}]}
  - model: B
    parameters: {weight: [1, 0.2, 0.6]}
parameters:
  lambda: 0.8
"""),
    "task_arithmetic_normalised": RecipeText("""
merge_method: task_arithmetic
base_model: BASE
models:
  - {model: A, parameters: {weight: 0.7}}
  - {model: B, parameters: {weight: 0.7}}
parameters: {normalize: true}
""", as_mergekit=True),
    "ties_weights_and_densities": RecipeText("""
merge_method: ties
base_model: BASE
models:
  - {model: A, parameters: {density: 0.5, weight: 0.5}}
  - {model: B, parameters: {density: 0.3, weight: 0.3}}
  - {model: C, parameters: {density: 0.9, weight: 0.8}}
parameters: {normalize: true}
dtype: float32
""", as_mergekit=True),
    "ties_gradients": RecipeText("""
merge_method: ties
base_model: BASE
models:
  - model: A
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: B
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
  - model: C
    parameters:
      density: 0.33
      weight:
        - {filter: mlp, value: 0.5}
        - {value: 0}
parameters: {normalize: true, int8_mask: true}
""", as_mergekit=True),
    "ties_not_normalised_with_lambda": RecipeText("""
merge_method: ties
base_model: BASE
models:
  - {model: A, parameters: {weight: 0.4}}
  - {model: B, parameters: {weight: 0.6}}
parameters: {density: 0.4, normalize: false, lambda: 1.3}
""", as_mergekit=True),
    "ties_equal_weights_all_kept": RecipeText("""
merge_method: ties
base_model: BASE
models:
  - {model: A, parameters: {weight: 1, density: 1}}
  - {model: B, parameters: {weight: 1, density: 1}}
  - {model: C, parameters: {weight: 1, density: 1}}
"""),
    "ties_equal_weights_half_kept": RecipeText("""
merge_method: ties
base_model: BASE
models: [{model: A}, {model: B}, {model: C}]
parameters: {weight: 0.5, density: 0.5}
"""),
    "ties_slices_in_places": RecipeText("""
merge_method: ties
base_model: BASE
slices:
  - sources:
      - {model: BASE, layer_range: [0, 2]}
      - {model: A, layer_range: [0, 2], parameters: {weight: 0.9, density: 0.8}}
      - {model: B, layer_range: [0, 2], parameters: {weight: 0.1, density: 0.2}}
  - sources:
      - {model: BASE, layer_range: [2, 4]}
      - {model: A, layer_range: [2, 4], parameters: {weight: 0.2, density: [0.1, 0.9]}}
      - {model: B, layer_range: [2, 4], parameters: {weight: 0.8, density: 0.5}}
""", as_mergekit=True),
    "dare_linear_all_kept": RecipeText("""
merge_method: dare_linear
base_model: BASE
models:
  - {model: A, parameters: {weight: 0.5, density: 1.0}}
  - {model: B, parameters: {weight: 0.5, density: 1.0}}
"""),
    "dare_ties_all_kept": RecipeText("""
merge_method: dare_ties
base_model: BASE
models:
  - {model: A, parameters: {weight: 0.4}}
  - {model: B, parameters: {weight: 0.6}}
""", as_mergekit=True),
    "della_all_kept": RecipeText("""
merge_method: della
base_model: BASE
models:
  - {model: A, parameters: {weight: 0.4}}
  - {model: B, parameters: {weight: 0.6}}
parameters: {density: 1, epsilon: 0.05, lambda: 1.1}
""", as_mergekit=True),
    "della_equal_weights_all_kept": RecipeText("""
merge_method: della
base_model: BASE
models: [{model: A}, {model: B}]
parameters: {density: 1, epsilon: 0.05, lambda: 0.9, weight: 0.5}
"""),
    "breadcrumbs_weights": RecipeText("""
merge_method: breadcrumbs
base_model: BASE
models:
  - {model: A, parameters: {weight: 0.7}}
  - {model: B, parameters: {weight: 0.2}}
parameters: {density: 0.85, gamma: 0.05}
""", as_mergekit=True),
    "breadcrumbs_equal_weights": RecipeText("""
merge_method: breadcrumbs
base_model: BASE
models: [{model: A}, {model: B}]
parameters: {density: 0.5, gamma: 0.25, weight: 0.5}
"""),
    "breadcrumbs_ties": RecipeText("""
merge_method: breadcrumbs_ties
base_model: BASE
models:
  - {model: A, parameters: {weight: 0.7, density: 0.9}}
  - {model: B, parameters: {weight: 0.5, density: 0.6}}
parameters: {gamma: 0.01}
""", as_mergekit=True),
    "sce_topk": RecipeText("""
merge_method: sce
base_model: BASE
models: [{model: A}, {model: B}, {model: C}]
parameters: {select_topk: 0.3}
dtype: float32
""", as_mergekit=True),
    "sce_gradient": RecipeText("""
merge_method: sce
base_model: BASE
models: [{model: BASE}, {model: A}, {model: B}]
parameters:
  select_topk:
    - {filter: mlp, value: [0.1, 0.9]}
    - value: 0.5
""", as_mergekit=True),
    "sce_all_selected": RecipeText("""
merge_method: sce
base_model: BASE
models: [{model: A}, {model: B}]
"""),
    "passthrough_one_model": RecipeText("""
merge_method: passthrough
models: [{model: C}]
dtype: float32
"""),
    "passthrough_layers_in_their_places": RecipeText("""
merge_method: passthrough
slices:
  - sources: [{model: A, layer_range: [0, 2]}]
  - sources: [{model: B, layer_range: [2, 3]}]
  - sources: [{model: A, layer_range: [3, 4]}]
"""),
    "passthrough_stacked": RecipeText("""
merge_method: passthrough
slices:
  - sources: [{model: A, layer_range: [0, 3]}]
  - sources: [{model: B, layer_range: [1, 4]}]
dtype: float32
"""),
    "passthrough_of_one_model_grown": RecipeText("""
merge_method: passthrough
slices:
  - sources: [{model: A, layer_range: [0, 3]}]
  - sources: [{model: A, layer_range: [1, 3]}]
  - sources: [{model: A, layer_range: [2, 4]}]
"""),
    "passthrough_pruned_and_scaled": RecipeText("""
merge_method: passthrough
slices:
  - sources: [{model: C, layer_range: [0, 1]}]
  - sources:
      - model: C
        layer_range: [3, 4]
        parameters:
          scale: [{filter: o_proj, value: 0.0}, {value: 1.0}]
""", as_mergekit=True),
    "slerp_of_other_layers": RecipeText("""
merge_method: slerp
base_model: A
slices:
  - sources: [{model: A, layer_range: [0, 2]}, {model: B, layer_range: [1, 3]}]
  - sources: [{model: A, layer_range: [1, 4]}, {model: B, layer_range: [0, 3]}]
parameters:
  t: [{filter: mlp, value: [0, 1]}, {value: 0.4}]
"""),
    "linear_of_stacked_slices": RecipeText("""
merge_method: linear
slices:
  - sources:
      - {model: A, layer_range: [0, 3], parameters: {weight: 0.3}}
      - {model: B, layer_range: [0, 3], parameters: {weight: 0.7}}
  - sources:
      - {model: A, layer_range: [2, 4], parameters: {weight: 0.9}}
      - {model: B, layer_range: [2, 4], parameters: {weight: 0.1}}
"""),
    "passthrough_scaled": RecipeText("""
merge_method: passthrough
models:
  - model: A
    parameters:
      scale:
        - {filter: o_proj, value: 0.5}
        - {filter: down_proj, value: [0.0, 1.0]}
        - value: 1.0
""", as_mergekit=True),
}  # fmt: skip
"""Configurations whose numbers are mergekit's."""
