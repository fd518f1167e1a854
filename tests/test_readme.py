"""The README says what is so: its commands compose, its tables are the committed ones."""

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

MARKERS = {
    "leaderboard": ("results/reports/paper.md",),
    "verdicts": tuple(
        f"results/reports/{name}.md" for name in ("paper", "heterogeneous", "ablation")
    ),
    "benchmark": ("results/benchmarks/qwen2-0.5b-3-sources.md",),
    "check": ("results/published/check.md",),
    "deviations": ("eval/report/deviations.md",),
}
COMMANDS = re.compile(r"^    python run\.py (.*?)\s*(?:#.*)?$", re.MULTILINE)


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def block(readme, name):
    return re.search(rf"<!-- {name}[^>]*-->\n(.*?)<!-- end -->", readme, re.DOTALL).group(1)


@pytest.mark.parametrize("name", sorted(MARKERS))
def test_every_row_of_a_table_stands_in_the_committed_one(readme, repository, name):
    files = [(repository / file).read_text(encoding="utf-8") for file in MARKERS[name]]
    committed = {line for file in files for line in file.splitlines()}
    rows = [line for line in block(readme, name).splitlines() if line.startswith("|")]
    assert len(rows) > 5
    assert [row for row in rows if row not in committed] == []


def test_no_claim_that_an_experiment_measured_is_said_not_to_be_measured(readme, repository):
    def verdicts(text):
        rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
        return {(row[0], row[1]) for row in rows if len(row) > 2 and row[1].startswith("**")}

    told = verdicts(block(readme, "verdicts"))
    for file in MARKERS["verdicts"]:
        found = verdicts((repository / file).read_text(encoding="utf-8"))
        measured = {claim for claim, verdict in found if verdict != "**not measured**"}
        assert {(claim, "**not measured**") for claim in measured} & told == set(), file


def test_every_command_composes(readme, repository):
    commands = COMMANDS.findall(readme)
    assert len(commands) >= 4
    with initialize_config_dir(version_base="1.3", config_dir=str(repository / "conf")):
        for command in commands:
            overrides = [word.split(",")[0] if "[" not in word else word
                         for word in shlex.split(command) if word != "-m"]  # fmt: skip
            config = compose("config", overrides)
            assert OmegaConf.to_container(config, resolve=True)["method"]["_target_"]


def test_links_lead_somewhere(readme, repository):
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in t]
    assert targets
    assert [target for target in targets if not (repository / target).exists()] == []


def packages(repository):
    """Folders of modules that have a page of their own."""
    pages = [page for name in ("seme", "baselines", "eval", "scripts")
             for page in (repository / name).rglob("README.md")]  # fmt: skip
    return [page.parent for page in pages if (page.parent / "__init__.py").exists()]


def test_the_page_of_a_package_names_every_module_and_no_file_that_is_gone(repository):
    for folder in packages(repository):
        text = (folder / "README.md").read_text(encoding="utf-8")
        modules = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
        missing = modules - set(re.findall(r"\b\w+\.py\b", text))
        gone = set(re.findall(r"^\| `(\w+\.py)`", text, re.MULTILINE)) - modules
        assert (missing, gone) == (set(), set()), f"{folder.relative_to(repository)}/README.md"


def test_the_page_of_a_package_names_its_subpackages(repository):
    for folder in packages(repository):
        text = (folder / "README.md").read_text(encoding="utf-8")
        for init in folder.glob("*/__init__.py"):
            assert f"`{init.parent.name}/`" in text, init.parent


def test_files_of_the_engine_import_only_files_listed_below_them(repository):
    text = (repository / "seme/README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)\.py`", text, re.MULTILINE)
    for place, name in enumerate(listed):
        source = (repository / f"seme/{name}.py").read_text(encoding="utf-8")
        imported = set(re.findall(r"from seme\.(\w+) import", source)) & set(listed)
        assert imported <= set(listed[place + 1 :]), name
