"""Import rules: packages, libraries imported in one module, no cycles."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("seme", "baselines", "eval", "seme_bench", "scripts", "run")
MAY_IMPORT = {
    "seme": {"seme"},
    "baselines": {"baselines", "seme"},
    "eval": {"eval"},
    "seme_bench": {"seme_bench", "seme", "baselines", "eval"},
    "scripts": {"scripts", "seme_bench", "seme", "baselines", "eval"},
    "run": {"seme_bench"},
}
FRONT_DOOR = "seme/__init__.py"
"""Its one name, ``merge``, is the top floor's, loaded when it is asked for."""
DATA_ONLY = {"seme_bench.conf", "seme_bench.reference"}
"""Packages of files alone, mapped to folders of the repository."""
SOLE_IMPORTERS = {
    "numba": ("seme/kernels/jit.py",),
    "lm_eval": (
        "eval/harness.py",
        "eval/headline_metric.py",
        "eval/suite_lm.py",
        "eval/suite_vllm.py",
        "eval/task_manager.py",
        "eval/tasks.py",
        "scripts/benchmark/packing.py",
    ),
    "wandb": ("eval/tracking/wandb_run.py",),
    "mlflow": ("eval/tracking/mlflow_run.py",),
    "hydra": (
        "eval/override_errors.py",
        "eval/sweep.py",
        "seme_bench/run.py",
        "seme_bench/start.py",
    ),
    "jinja2": ("eval/leaderboard/page.py",),
    "markdown_it": ("eval/report/render.py",),
}


def project_files() -> list[Path]:
    folders = (path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    visible = [
        p for p in folders if not any(n.startswith(".") for n in p.relative_to(ROOT).parts)
    ]
    return [*visible, *ROOT.glob("run.py")]


def imports_of(path: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def modules_of(path: Path) -> set[str]:
    return {name for node in imports_of(path) for name in names_in(node)}


def names_in(node: ast.stmt) -> set[str]:
    """Names that a statement imports; none if it is another."""
    if isinstance(node, ast.ImportFrom):
        return {f"{node.module}.{alias.name}" for alias in node.names}
    return {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path) -> set[str]:
    """Names that a module imports from or imports, and their members, without itself."""
    names = {node.module for node in imports_of(path) if isinstance(node, ast.ImportFrom)}
    return (modules_of(path) | {str(name) for name in names}) - {module_of(path)}


def packages_of(path: Path) -> set[str]:
    return {module.split(".")[0] for module in modules_of(path)}


def test_packages_import_only_lower_packages():
    breaches = [
        f"{path.relative_to(ROOT)} imports {package}"
        for path in project_files()
        for package in packages_of(path) & set(PACKAGES)
        if package not in MAY_IMPORT[path.relative_to(ROOT).parts[0].removesuffix(".py")]
    ]
    assert breaches == [f"{FRONT_DOOR} imports seme_bench"]


def test_parts_of_the_engine_are_loaded_without_the_top_floor():
    code = "import sys, seme.engine; print([m for m in ('seme_bench', 'eval') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "[]\n"


def test_wrapped_libraries_are_imported_only_in_their_modules():
    breaches = [
        f"{path.relative_to(ROOT)} imports {library}"
        for path in project_files()
        for library in packages_of(path) & set(SOLE_IMPORTERS)
        if path.relative_to(ROOT).as_posix() not in SOLE_IMPORTERS[library]
    ]
    assert breaches == []
    idle = [
        importer
        for library, importers in SOLE_IMPORTERS.items()
        for importer in importers
        if library not in packages_of(ROOT / importer)
    ]
    assert idle == []


def test_imports_have_no_cycle():
    modules = {module_of(path): path for path in project_files()}
    waiting = {
        name: {other for other in imported_modules(path) if other in modules}
        for name, path in modules.items()
    }
    while free := {name for name, imported in waiting.items() if not imported}:
        waiting = {n: imported - free for n, imported in waiting.items() if n not in free}
    assert waiting == {}


def test_compiled_loops_call_only_loops_of_their_own_file():
    # numba caches by the file of the outer loop: a change in the inner loop's file is not seen
    for path in (ROOT / "seme/kernels").glob("*.py"):
        if path.name != "warmup.py":  # which compiles nothing
            kernel_imports = {
                module for module in modules_of(path) if module.startswith("seme.kernels")
            }
            assert {module.rpartition(".")[0] for module in kernel_imports} <= {
                "seme.kernels.jit"
            }, path


def test_merging_imports_neither_transformers_nor_evaluation_libraries():
    heavy = {"transformers", "lm_eval", "datasets", "wandb", "mlflow", "pandas"}
    files = [
        p for p in project_files() if p.relative_to(ROOT).parts[0] in ("seme", "baselines")
    ]
    # within functions only: planning without shards, conversion of GGUF models, running models
    importers = {p.name for p in files if packages_of(p) & heavy}
    assert importers == {"gguf_config.py", "language_model.py", "outline.py"}
    extras = {p.name for p in files if "gguf" in packages_of(p)}
    assert extras == {"gguf_config.py", "gguf_header.py", "gguf_tensors.py"}
    for path in files:
        top_level = ast.parse(path.read_text(encoding="utf-8")).body
        names = {name.split(".")[0] for node in top_level for name in names_in(node)}
        assert not names & (heavy | {"gguf"}), path


def test_no_merge_imports_safetensors():
    # seme/checkpoint/safetensors_file.py: blocks by position, at a fixed RSS
    importers = {p for p in project_files() if "safetensors" in packages_of(p)}
    after_training = ROOT / "scripts/zoo/folders.py"
    assert importers == {after_training}


def test_statistics_import_neither_pathlib_nor_leaderboard():
    breaches = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in (ROOT / "eval" / "statistics").glob("*.py")
        for module in modules_of(path)
        if module.startswith(
            ("pathlib", "eval.leaderboard", "eval.results_folder", "eval.report")
        )
    ]
    assert breaches == []


def test_top_floor_imports_no_merge_method():
    for path in (ROOT / "run.py", *ROOT.glob("seme_bench/*.py")):
        assert not [m for m in modules_of(path) if m.startswith(("baselines", "seme.method"))]


def test_eval_is_never_imported_by_its_bare_name():
    # `import eval.harness` rebinds the builtin; only `from eval.harness import ...` does not.
    breaches = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (*project_files(), *(ROOT / "tests").glob("*.py"))
        for node in imports_of(path)
        if isinstance(node, ast.Import)
        and any(alias.name.split(".")[0] == "eval" for alias in node.names)
    ]
    assert breaches == []


def test_tests_folder_does_not_shadow_the_package_eval():
    assert not (ROOT / "tests" / "eval").exists()
    assert not (ROOT / "tests" / "__init__.py").exists()


def test_pyproject_lists_every_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent for path in project_files() if path.name == "__init__.py"}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(project["tool"]["setuptools"]["packages"]) == packages | DATA_ONLY
