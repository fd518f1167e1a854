"""Experiments of conf/experiment: number of cells, settings, no repeated run."""

import functools
import re
import shutil
from collections import Counter, defaultdict

import pytest
import yaml

from eval.results_folder import load_results
from scripts.choose import choose, config_text, share_parameter
from seme.binding import bind_method, check_method
from seme_bench.entries import check_entries
from tests.configurations import CONF, assembled, cells_of, composed, identity_of, settings_of
from tests.made_up_runs import made_up_run

pytestmark = pytest.mark.xdist_group(
    "experiments"
)  # composes every cell once, not in each process
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
FIVE = ("average", "dare", "seme", "task_arithmetic", "ties")
SECONDS_PER_CELL = 6.5
SELECTS = {
    "select": "chosen",
    "smol_select": "chosen_smol",
    "field_select": "chosen_field",
    "field_smol_select": "chosen_field_smol",
}
"""Experiments on the validation split, and the folder of variants of what they choose."""
READS = {
    "select": "paper",
    "smol_select": "smol_paper",
    "field_select": "field",
    "field_smol_select": "field_smol",
}
"""The same, and the experiment that reads the test split at these choices."""
ZOO_EXPERIMENTS = [e for e in EXPERIMENTS if "smol" not in e]
FIELDS = {"field_select": "field", "field_smol_select": "field_smol"}
MOST_SETTINGS = {"field_select": 5, "field_smol_select": 3}
"""Settings of a method with enough to choose from."""


def method_of(config):
    return config["method"]["_target_"].split(".")[-2].replace("method", "seme")


def share_of(config):
    share = share_parameter(method_of(config))
    return None if share is None else settings_of(config)[share]


def made_up_choices(experiment):
    """What would be chosen if every method did best at its second lam, or second setting."""
    runs, seen = [], defaultdict(list)
    for config in cells_of(experiment).values():
        settings = settings_of(config)
        tried = settings if experiment in FIELDS else settings["lam"]
        ranks = seen[method_of(config)]
        ranks += [] if tried in ranks else [tried]
        value = 0.5 - 0.01 * abs(ranks.index(tried) - 1)
        runs.append(made_up_run(method_of(config), settings, value))
    different = {run.fingerprint: run for run in runs}.values()
    return choose(different, each_share=experiment not in FIELDS)


@pytest.fixture(scope="module")
def choices_of():
    """Folder of variants to the choices in it, by name."""
    made_up = {folder: made_up_choices(select) for select, folder in SELECTS.items()}
    return {folder: {c.name: c for c in made_up[folder]} for folder in made_up}


@pytest.fixture(scope="module")
def choices(choices_of):
    return choices_of["chosen"]


@pytest.fixture(scope="module")
def made_up_conf(choices_of, tmp_path_factory):
    """The configuration with made-up choices in place of the committed ones."""
    conf = tmp_path_factory.mktemp("made_up") / "conf"
    shutil.copytree(CONF, conf, ignore=shutil.ignore_patterns(*choices_of))
    for folder, choices in choices_of.items():
        (conf / "variant" / folder).mkdir()
        for name, choice in choices.items():
            (conf / "variant" / folder / f"{name}.yaml").write_text(config_text(choice))
    return conf


@pytest.fixture(scope="module")
def cells(made_up_conf):
    """Experiment to its cells, with made-up choices."""
    return functools.cache(lambda experiment: cells_of(experiment, made_up_conf))


def counts_in_header(experiment):
    """Cells, different cells and unmerged models, as the header counts them."""
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text().replace("\n# ", " ")
    pattern = r"(\d+) cells, (\d+) different.*? and (\d+) unmerged models"
    return tuple(map(int, re.search(pattern, text).groups()))


def counts_of(configs):
    unmerged = {
        model.get("path_to_adapter") or model["location"]
        for config in configs
        for key in ("sources", "references")
        for model in (config["models"]["pivot"], *config["models"][key])
    }
    return len(configs), len(set(map(identity_of, configs))), len(unmerged)


@pytest.mark.parametrize("experiment", ["paper", "transport"])
def test_last_cell_is_what_hydra_composes(experiment, cells, made_up_conf):
    overrides, config = list(cells(experiment).items())[-1]
    assert composed(f"experiment={experiment}", *overrides, conf=made_up_conf) == config


@pytest.mark.parametrize("method", ["mergekit_sce", "seme", "ties"])
def test_assembled_configurations_are_what_hydra_composes(method):
    overrides = [
        f"method={method}", "tau=1e-1", "method.lam=2", "models=custom", "models.pivot=/a/b",
        "models.sources=[{path_to_adapter: /c, name: x}, d]", "suite=none", "tracker=none",
        "force=true", "merged_dir='a b'",
    ]  # fmt: skip
    assert assembled(*overrides) == composed(*overrides)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_header_counts_cells_distinct_cells_and_unmerged_models(experiment, cells):
    assert counts_in_header(experiment) == counts_of(list(cells(experiment).values()))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_cell_is_a_valid_run_config(experiment, cells):
    for config in cells(experiment).values():
        check_entries(config)
        check_method(bind_method(config["method"]), len(config["models"]["sources"]))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_cells_repeat_only_for_methods_without_a_density(experiment, cells):
    same = defaultdict(list)
    for overrides, config in cells(experiment).items():
        others = tuple(o for o in overrides if not o.startswith("tau="))
        same[identity_of(config)].append((others, share_of(config)))
    repeated = [repeats for repeats in same.values() if len(repeats) > 1]
    assert all(len(set(repeats)) == 1 and repeats[0][1] is None for repeats in repeated)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_header_has_command_question_and_report_path(experiment):
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    commands = [line for line in lines if line.startswith("# python ")]
    command = next(line for line in commands if re.search(rf"experiment={experiment}\b", line))
    assert command.startswith(f"# python run.py -m experiment={experiment}")
    header = " ".join(line[2:] for line in lines if line.startswith("# "))
    assert "? " in header
    assert "Expect " in header
    assert header.endswith(f"see results/reports/{experiment}.md")


def test_experiments_of_the_zoo_take_under_an_hour_in_total():
    runs = sum(sum(counts_in_header(experiment)[1:]) for experiment in ZOO_EXPERIMENTS)
    assert runs * SECONDS_PER_CELL < 60 * 60
    assert sum(counts_in_header("select")[1:]) * SECONDS_PER_CELL < 6 * 60


def test_only_selecting_experiments_use_the_validation_split(cells):
    splits = {e: {c["suite"]["split"] for c in cells(e).values()} for e in EXPERIMENTS}
    assert splits == {e: {"validation" if e in SELECTS else "test"} for e in EXPERIMENTS}


def test_each_experiment_has_its_own_results_folder(cells):
    roots = {e: {c["output"] for c in cells(e).values()} for e in EXPERIMENTS}
    named = {e: READS.get(e, e) for e in EXPERIMENTS}
    assert roots == {e: {f"results/{name}"} for e, name in named.items()}


def test_every_chosen_method_has_at_least_four_candidates(cells):
    tried = defaultdict(set)
    for config in cells("select").values():
        tried[method_of(config), share_of(config)].add(config["method"]["lam"])
    methods = {("task_arithmetic", None)}
    methods |= {(name, tau) for name in ("seme", "ties", "dare") for tau in (0.1, 0.2, 0.3)}
    assert {key for key, lams in tried.items() if len(lams) >= 4} == methods == tried.keys()


@pytest.mark.parametrize("select", FIELDS)
def test_field_tries_every_method_at_equally_many_settings_its_file_s_lam_among_them(
    select, cells
):
    tried = defaultdict(list)
    for config in cells(select).values():
        tried[method_of(config)].append(settings_of(config))
    methods = {path.stem for path in (CONF / "method").glob("*.yaml")}
    methods -= {"mergekit_arithmetic", "mergekit_sce"}  # other readings of methods in the field
    methods -= {"seme_directions"}  # nothing to choose; in experiment seme_variants
    assert tried.keys() == methods
    less = {"average": 1, "metagpt": 1, "model_stock": 1, "multislerp": 2, "karcher": 2}
    less |= {"layer_swap": 4} if select == "field_select" else {}
    assert {name: len(settings) for name, settings in tried.items()} == {
        name: less.get(name, MOST_SETTINGS[select]) for name in methods
    }
    for name, settings in tried.items():
        lam = composed(f"method={name}")["method"].get("lam")
        assert lam in [of_run.get("lam") for of_run in settings]


@pytest.mark.parametrize(("select", "field"), FIELDS.items())
def test_field_reads_every_method_once_at_its_choice(select, field, cells, choices_of):
    runs = [(method_of(c), settings_of(c)) for c in cells(field).values()]
    chosen = choices_of[SELECTS[select]].values()
    assert sorted(runs, key=str) == sorted(((c.method, c.settings) for c in chosen), key=str)


def test_paper_has_five_methods_three_densities_and_three_dare_seeds(cells):
    runs = Counter((method_of(c), share_of(c), c["seed"]) for c in cells("paper").values())
    shares = (0.1, 0.2, 0.3)
    expected = [("average", None, 0), ("task_arithmetic", None, 0)]
    expected += [(name, tau, 0) for name in ("seme", "ties") for tau in shares]
    expected += [("dare", tau, seed) for tau in shares for seed in (0, 1, 2)]
    assert runs == Counter(expected)


def test_paper_uses_the_setting_chosen_for_each_density(cells, choices):
    for (variant,), config in cells("paper").items():
        for name in re.findall(r"chosen/([\w.]+)", variant):
            assert settings_of(config) == choices[name].settings
            assert method_of(config) == choices[name].method
            assert name == choices[name].method or name.endswith(f"_{share_of(config):g}")


def test_scaling_merges_two_to_five_experts_at_one_setting(cells, choices):
    sources = composed("models=zoo")["models"]["sources"]
    runs = defaultdict(list)
    for config in cells("scaling").values():
        n = len(config["models"]["sources"])
        assert config["models"]["sources"] == sources[:n]
        assert method_of(config) == "average" or (
            settings_of(config) == choices[method_of(config)].settings
        )
        runs[method_of(config)].append(n)
    assert runs == {method: [2, 3, 4, 5] for method in FIVE}


@pytest.mark.parametrize(
    ("variant", "reference", "changed"),
    [
        ("select/seme_2", "select/seme_1", {"lam": 2.0}),
        ("select/seme_4", "select/seme_1", {"lam": 4.0}),
        ("ablation/renormalized", "select/seme_1", {"renormalize": True}),
        ("ablation/coefficients", "select/seme_1", {"select": "coefficients"}),
        ("ablation/rotated", "select/seme_1", {"alignment.identity_tolerance": 0.0}),
        (
            "ablation/least_squares",
            "ablation/rotated",
            {"alignment.projection": "least_squares"},
        ),
        ("ablation/cosine", "select/seme_1", {"alignment.projection": "cosine"}),
    ],
)
def test_ablation_changes_one_setting_at_a_time(variant, reference, changed, cells):
    of_variant = defaultdict(dict)
    for (choice, tau), config in cells("ablation").items():
        of_variant[choice.removeprefix("variant=")][tau] = settings_of(config)
    assert len(of_variant) == 8
    for tau, settings in of_variant[variant].items():
        assert settings == of_variant[reference][tau] | changed != of_variant[reference][tau]


def test_ablation_starts_from_the_default_seme_config(cells):
    config = cells("ablation")["variant=select/seme_1", "tau=0.1"]
    assert config["method"] == composed("method=seme")["method"]


@pytest.mark.parametrize(("select", "folder"), SELECTS.items())
def test_committed_choices_follow_from_committed_records(select, folder, repository):
    committed = {p.stem: p.read_text() for p in (CONF / "variant" / folder).glob("*.yaml")}
    published = repository / "results" / "published" / READS[select]
    assert (len(committed) >= 10) == published.is_dir()
    records = load_results(published).records if published.is_dir() else None
    choices = choose(records, each_share=select not in FIELDS) if records else []
    assert committed == {choice.name: config_text(choice) for choice in choices}


@pytest.mark.parametrize("folder", SELECTS.values())
def test_experiments_use_chosen_files_that_are_there(folder, choices_of):
    text = "".join((CONF / "experiment" / f"{e}.yaml").read_text() for e in EXPERIMENTS)
    named = set(re.findall(rf"\b{folder}/(\w+(?:\.\d)?)\b", text))
    assert named <= choices_of[folder].keys()
    assert folder != "chosen" or named == choices_of[folder].keys()


def test_smaller_pools_are_the_first_experts_of_the_zoo():
    for n in (2, 3, 4):
        pool = yaml.safe_load((CONF / "models" / f"zoo_{n}.yaml").read_text())
        whole = yaml.safe_load((CONF / "models" / "zoo.yaml").read_text())
        assert pool == whole | {"name": f"zoo_{n}", "sources": whole["sources"][:n]}
