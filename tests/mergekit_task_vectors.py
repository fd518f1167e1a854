"""Configurations of task vectors and of layer slices, in mergekit's format.

Folders are named as in :mod:`tests.mergekit_weighted`.
"""

from tests.mergekit_weighted import RecipeText

TASK_VECTORS = {
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
