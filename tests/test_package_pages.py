"""README pages of packages: every module listed, engine files in import order."""

import re


def packages(repository):
    """Folders of modules that have a page of their own."""
    pages = [page for name in ("seme", "baselines", "eval", "seme_bench", "scripts")
             for page in (repository / name).rglob("README.md")]  # fmt: skip
    return [page.parent for page in pages if (page.parent / "__init__.py").exists()]


def test_package_page_lists_exactly_its_modules(repository):
    for folder in packages(repository):
        text = (folder / "README.md").read_text(encoding="utf-8")
        modules = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
        missing = modules - set(re.findall(r"\b\w+\.py\b", text))
        gone = set(re.findall(r"^\| `(\w+\.py)`", text, re.MULTILINE)) - modules
        assert (missing, gone) == (set(), set()), f"{folder.relative_to(repository)}/README.md"


def test_package_page_lists_its_subpackages(repository):
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
