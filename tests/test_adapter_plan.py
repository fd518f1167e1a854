"""Plans of merges to one LoRA: equal to what the merge reads and writes, refused where it is."""

import functools
import json
import math
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from baselines import task_arithmetic, ties
from seme.adapter_merge import ERRORS_FILE, merge_to_adapter
from seme.adapter_plan import adapter_plan_table, plan_adapter
from seme.checkpoint.lora import ADAPTER_FILE, open_adapter
from seme.checkpoint.reader import open_checkpoint
from seme.overrides import parse_overrides
from seme_bench.planning import print_plan
from tests.adapters import ADAPTERS, save_adapter
from tests.configurations import composed
from tests.settings import SETTINGS

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

ADD = functools.partial(task_arithmetic.merge, lam=0.5, weights=None)
TIES = functools.partial(ties.merge, density=0.5, lam=1.0, scope="tensor", trim_ties="exact")


@pytest.fixture
def models(tmp_path, make_llama):
    """A base and two adapters of it, opened."""
    base = make_llama(tmp_path / "base", 0)
    folders = [save_adapter(base, n, i, **o) for i, (n, o) in enumerate(ADAPTERS.items())]
    pivot = open_checkpoint(base, root=tmp_path)
    return pivot, [open_adapter(folder, root=tmp_path) for folder in folders]


def settings_of(rank, options):
    return replace(SETTINGS, as_adapter=True, adapter_rank=rank, **options)


def planned(models, method=ADD, rank=None, **options):
    pivot, adapters = models
    destination = pivot.path.parent / "merged"
    settings = settings_of(rank, options)
    return plan_adapter(method, pivot, adapters, destination, settings=settings)


def merged(models, method=ADD, rank=None, **options):
    """Merge; return the folder and the report."""
    pivot, adapters = models
    destination = pivot.path.parent / "merged"
    report = merge_to_adapter(
        method,
        pivot,
        adapters,
        destination,
        settings=settings_of(rank, options),
        progress=False,
    )
    return destination, report


def rows_of(plan):
    """First column to second."""
    table = adapter_plan_table(plan, memory_budget="2GiB")
    return dict(zip(*(list(column.cells) for column in table.columns), strict=True))


@pytest.mark.parametrize("exclude", [(), ("*.down_proj.*",)])
def test_plan_of_factors_side_by_side_is_what_the_merge_reads_and_writes(models, exclude):
    plan = planned(models, exclude=exclude)
    assert [model.bytes_read for model in (models[0], *models[1])] == [0, 0, 0]
    folder, report = merged(models, exclude=exclude)
    assert plan.written_bytes == (folder / ADAPTER_FILE).stat().st_size
    assert plan.disk_bytes == plan.written_bytes
    tensors = load_file(folder / ADAPTER_FILE).values()
    assert plan.n_parameters == report.n_parameters == sum(t.numel() for t in tensors)
    stored = [load_file(adapter.path / ADAPTER_FILE) for adapter in models[1]]
    n_bytes = sum(
        factor.nbytes
        for factors in stored
        for name, factor in factors.items()
        if not (exclude and "down_proj" in name)
    )
    assert plan.read_bytes == report.bytes_read == n_bytes
    written = json.loads((folder / ERRORS_FILE).read_text())["modules"]
    assert {name.removesuffix(".weight"): rank for name, rank in plan.ranks.items()} == {
        module: entry["rank"] for module, entry in written.items()
    }


@pytest.mark.parametrize("method", [ADD, TIES])
def test_plan_of_a_given_rank_has_the_model_that_is_written_for_a_while(models, method):
    plan = planned(models, method, rank=2)
    folder, report = merged(models, method, rank=2)
    assert plan.written_bytes == (folder / ADAPTER_FILE).stat().st_size
    assert plan.n_parameters == report.n_parameters
    pivot = models[0]
    in_float32 = 4 * sum(math.prod(pivot.shape(name)) for name in pivot.names)
    assert plan.disk_bytes == in_float32 + plan.written_bytes
    factors = sum(
        t.nbytes for a in models[1] for t in load_file(a.path / ADAPTER_FILE).values()
    )
    assert plan.read_bytes == 4 * pivot.nbytes + factors + in_float32
    assert plan.read_bytes <= report.bytes_read


def test_excluded_weights_have_no_factors_of_a_given_rank(models):
    plan = planned(models, TIES, rank=2, exclude=("*.v_proj.*",))
    folder, _ = merged(models, TIES, rank=2, exclude=("*.v_proj.*",))
    assert plan.written_bytes == (folder / ADAPTER_FILE).stat().st_size
    assert len(plan.ranks) == 4
    assert not any("v_proj" in name for name in load_file(folder / ADAPTER_FILE))


def test_rows_of_a_linear_merge_are_of_factors_alone(models):
    rows = rows_of(planned(models, exclude=("*.v_proj.*",)))
    assert rows["merged"] == "4 weights, the sources' factors side by side, ranks 2 to 5: exact"
    assert rows["left out"].startswith(
        "2 excluded by *.v_proj.*: model.layers.0.self_attn.v_proj"
    )
    assert rows["to read"].endswith("MB: factors alone, none of the pivot's weights")
    n_numbers = 2 * (5 * (16 + 16) + 2 * (16 + 24))
    assert rows["to write"].endswith(f": {n_numbers:,} numbers in float32")
    assert "for a while" not in rows
    assert rows["peak memory"].endswith("; memory_budget (2GiB) does not bound it")


def test_rows_of_a_given_rank_have_the_decompositions(models):
    rows = rows_of(planned(models, TIES, rank=2))
    assert rows["merged"] == "6 weights, their change approximated by rank 2, truncated SVD"
    assert rows["to compute"].startswith(
        "6 singular value decompositions in float64, the largest of 16 x 24; "
    )
    assert "the method's preparation adds passes" in rows["to read"]
    assert rows["for a while"].endswith(": the merged model in float32, on the same disk")


def test_memory_of_factors_is_that_of_float64_and_float32(models):
    more = [
        open_adapter(save_adapter(models[0].path, f"more{i}", 5 + i, **ADAPTERS["first"]),
                     root=models[0].path.parent)
        for i in range(2)
    ]  # fmt: skip
    plan, larger = planned(models), planned((models[0], [*models[1], *more]))
    n_more = larger.n_parameters - plan.n_parameters
    assert n_more == 2 * 2 * 2 * ((16 + 16) + (16 + 24))  # adapters, layers, rank, sides
    q_proj = (9 - 5) * (16 + 16)  # the largest, from rank 5 to rank 9
    assert larger.peak_bytes - plan.peak_bytes == (8 + 4) * n_more + 2 * 8 * q_proj


def test_disk_that_holds_the_adapter_and_not_the_model_is_not_enough(models):
    plan = planned(models, rank=2)
    assert "NOT ENOUGH" not in rows_of(plan)["disk free"]
    scarce = replace(plan, free_bytes=plan.disk_bytes - 1)
    assert scarce.free_bytes > plan.written_bytes
    assert "NOT ENOUGH" in rows_of(scarce)["disk free"]


def test_plan_has_overrides_and_their_errors(models):
    overrides = parse_overrides([{"match": "*.q_proj.*", "lam": 0.25}])
    for rank in (None, 2):
        assert planned(models, rank=rank, overrides=overrides).overridden == (
            "2 tensors: lam=0.25",
        )
    with pytest.raises(ValueError, match="another value: weights"):
        planned(models, overrides=parse_overrides([{"weights": [1.0]}]))


def test_plan_refuses_what_the_merge_refuses(models, tmp_path):
    with pytest.raises(ValueError, match=r"needs adapter_rank=RANK for baselines\.ties"):
        planned(models, TIES)
    with pytest.raises(ValueError, match="adapter_rank must be from 1 to"):
        planned(models, rank=1000)
    with pytest.raises(ValueError, match="nothing would be merged"):
        planned(models, include=("*norm*",))
    with pytest.raises(ValueError, match="memory_budget must be at least"):
        planned(models, rank=2, memory_budget=1)
    (tmp_path / "merged").mkdir()
    with pytest.raises(ValueError, match="already exists"):
        planned(models)


def test_command_prints_the_adapter_s_plan(models, tmp_path, capsys):
    pivot, adapters = models
    sources = ",".join(f"{{path_to_adapter: {adapter.path}}}" for adapter in adapters)
    config = composed(
        "method=task_arithmetic", "tracker=none", "suite=none", "models=custom", "plan=true",
        f"models.pivot={pivot.path}", f"models.sources=[{sources}]", "merged_as=adapter",
        f"merged_dir={tmp_path}/merged",
    )  # fmt: skip
    print_plan(config, "task_arithmetic", "task arithmetic", root=tmp_path)
    out = capsys.readouterr().out
    assert "Plan of a merge to one LoRA (no weights loaded)" in out
    assert "6 weights, the sources' factors side by side, ranks 2 to 5: exact" in out
    assert not (tmp_path / "merged").exists()
