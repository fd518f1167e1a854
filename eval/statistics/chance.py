"""What guessing scores on the tasks of the second Open LLM Leaderboard.

One over the number of choices, which are fixed in lm-eval's task files but for MuSR, whose
questions bring their own. https://huggingface.co/docs/leaderboards/open_llm_leaderboard/normalization
"""

_BBH_CHOICES = {
    "boolean_expressions": 2,
    "causal_judgement": 2,
    "date_understanding": 6,
    "disambiguation_qa": 3,
    "formal_fallacies": 2,
    "geometric_shapes": 11,
    "hyperbaton": 2,
    "logical_deduction_five_objects": 5,
    "logical_deduction_seven_objects": 7,
    "logical_deduction_three_objects": 3,
    "movie_recommendation": 6,
    "navigate": 2,
    "object_counting": 19,
    "penguins_in_a_table": 5,
    "reasoning_about_colored_objects": 18,
    "ruin_names": 6,
    "salient_translation_error_detection": 6,
    "snarks": 2,
    "sports_understanding": 2,
    "temporal_sequences": 4,
    "tracking_shuffled_objects_five_objects": 5,
    "tracking_shuffled_objects_seven_objects": 7,
    "tracking_shuffled_objects_three_objects": 3,
    "web_of_lies": 2,
}
_MUSR_CHOICES = {"murder_mysteries": 2, "object_placements": 5, "team_allocation": 3}
_GPQA_CHOICES = dict.fromkeys(("diamond", "extended", "main"), 4)
_MATH = (
    "algebra",
    "counting_and_prob",
    "geometry",
    "intermediate_algebra",
    "num_theory",
    "prealgebra",
    "precalculus",
)

LEADERBOARD_V2 = {
    **{f"leaderboard_bbh_{task}": 1 / n for task, n in _BBH_CHOICES.items()},
    **{f"leaderboard_musr_{task}": 1 / n for task, n in _MUSR_CHOICES.items()},
    **{f"leaderboard_gpqa_{task}": 1 / n for task, n in _GPQA_CHOICES.items()},
    "leaderboard_mmlu_pro": 1 / 10,
    "leaderboard_ifeval": 0.0,
    **{f"leaderboard_math_{task}_hard": 0.0 for task in _MATH},
}
"""lm-eval task to the lower bound of its score. The board normalises GPQA as one benchmark of
three overlapping sets; as tasks of one domain they are normalised one by one."""
