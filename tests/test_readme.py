"""README: commands compose, numbers equal committed tables, links resolve."""

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

REPORT = "results/reports/smol_paper.md"
BENCHMARK = "results/benchmarks/qwen2-0.5b-3-sources.md"
COMMANDS = re.compile(r"^    python run\.py (.*?)\s*(?:#.*)?$", re.MULTILINE)
FIELD = "results/benchmarks/qwen2-0.5b-field-elementwise.md"
SPEEDS = [
    (BENCHMARK, "averaging", "average"), (BENCHMARK, "task arithmetic", "task_arithmetic"),
    (BENCHMARK, "DARE", "dare"), (BENCHMARK, "TIES", "ties"), (BENCHMARK, "SCE", "sce"),
    (FIELD, "Breadcrumbs", "breadcrumbs"), (FIELD, "DELLA", "della"),
    (FIELD, "RAM", "ram_tensor"), (FIELD, "Model Stock", "model_stock"),
]  # fmt: skip


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def tables(text):
    """Yield every row of Markdown tables as a mapping of column to cell."""
    header = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = None
        elif header is None:
            header = cells
        elif set(line) - set("|-: "):
            yield dict(zip(header, cells, strict=True))


def test_result_rows_equal_the_report(readme, repository):
    block = re.search(r"<!-- result[^>]*-->\n(.*?)<!-- end -->", readme, re.DOTALL).group(1)
    rows = list(tables(block))
    committed = [
        {key: row.get(key) for key in rows[0]}
        for row in tables((repository / REPORT).read_text(encoding="utf-8"))
    ]
    assert len(rows) > 5
    assert [row for row in rows if row not in committed] == []


def test_figures_of_which_method_when_are_those_of_the_field(readme, repository):
    section = re.search(r"## Which method when\n(.*?)\n## ", readme, re.DOTALL).group(1)
    figures = set(re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", section)) - {"1.6", "2511.21437"}
    names = ("field", "field_smol", "seme_variants")
    reports = [repository / f"results/reports/{name}.md" for name in names]
    report = "".join(path.read_text(encoding="utf-8") for path in reports)
    assert len(figures) > 10
    assert [figure for figure in figures if not re.search(rf"\| {figure} [|±]", report)] == []


@pytest.mark.parametrize(("benchmark", "name", "method"), SPEEDS)
def test_stated_speeds_equal_the_benchmark(benchmark, name, method, readme, repository):
    rows = tables((repository / benchmark).read_text(encoding="utf-8"))
    committed = {row["method"]: row["times faster"] for row in rows if row.get("times faster")}
    (speed,) = re.findall(rf"\b{name} ([\d.]+)(?:,| times faster)", readme)
    assert speed == committed[method]


def test_readme_commands_compose(readme, repository):
    commands = COMMANDS.findall(readme)
    assert len(commands) >= 4
    with initialize_config_dir(version_base="1.3", config_dir=str(repository / "conf")):
        for command in commands:
            overrides = [word.split(",")[0] if "[" not in word else word
                         for word in shlex.split(command) if word != "-m"]  # fmt: skip
            config = compose("config", overrides)
            assert OmegaConf.to_container(config, resolve=True)["method"]["_target_"]


def test_links_resolve(readme, repository):
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in t]
    assert targets
    assert [target for target in targets if not (repository / target).exists()] == []
