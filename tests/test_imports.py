"""Who may import whom, what each package offers, and what a checkout must not hold."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cache.schema
import cli
from classify.estimators import FACTORIES, FRAME_READERS, MIXERS
from classify.protocols import PROTOCOLS, find_protocol
from sslfeat import options

ROOT = Path(cli.__file__).resolve().parent
PACKAGES = ("cache", "classify", "sslfeat")
SOURCES = [path.relative_to(ROOT) for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))]
SOURCES.append(Path("cli.py"))
OWN = {*PACKAGES, "cli"}
LONGEST = 450
# A table, which no division would make clearer.
TABLES = {"sslfeat/catalogue.py"}
# What each may import beyond the standard library and itself.
ALLOWED = {
    "cache": {"numpy", "h5py"},
    "classify": {
        *("cache", "numpy", "scipy", "sklearn", "torch", "joblib", "skops", "rich", "threadpoolctl"),
    },
    "sslfeat": {
        *(
            "cache",
            "numpy",
            "torch",
            "transformers",
            "soundfile",
            "soxr",
            "sklearn",
            "rich",
            "click",
            "av",
            "distributed",
        ),
    },
    "cli": {"click", "rich", "numpy", "cache", "classify", "sslfeat"},
}
# Names that one file of a package alone may import.
ONLY_IN = {
    ("cache", "h5py"): {"cache/store.py"},
    ("sslfeat", "sklearn"): {"sslfeat/embedder.py"},
}


def imports(source: Path) -> Iterator[str]:
    """Yield the module that each import of a file names, those by ``import_module`` too."""
    for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: a relative import"
            assert node.module
            yield node.module
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield str(name.value)


def module_of(source: Path) -> str:
    return ".".join(source.with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_module_imports_only_what_its_package_may(source):
    package = source.with_suffix("").parts[0]
    found = {name.partition(".")[0] for name in imports(source)} - set(sys.stdlib_module_names)
    assert found <= ALLOWED[package] | {package}
    for (owner, name), files in ONLY_IN.items():
        if package == owner and name in found:
            assert source.as_posix() in files


def test_the_rules_speak_of_something():
    # A rule about a file that is gone, or a library that no one uses, would hold for nothing.
    used = {package: set[str]() for package in OWN}
    for source in SOURCES:
        used[source.with_suffix("").parts[0]] |= {name.partition(".")[0] for name in imports(source)}
    assert {package: names - used[package] for package, names in ALLOWED.items()} == {
        package: set() for package in OWN
    }
    for (_, name), files in ONLY_IN.items():
        for file in files:
            assert name in {found.partition(".")[0] for found in imports(Path(file))}


def test_the_command_line_imports_lazily():
    tree = ast.parse((ROOT / "cli.py").read_text(encoding="utf-8"))
    eager = {
        name.partition(".")[0]
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        )
    }
    assert eager - set(sys.stdlib_module_names) == {"click", "sslfeat"}


@pytest.mark.parametrize(
    ("code", "without"),
    [
        ("import sys; sys.argv = ['sslfeat', '--help']; import cli; cli.main(standalone_mode=False)", ["torch", "numpy", "h5py", "rich", "cache", "classify"]),
        ("import sys; sys.argv = ['sslfeat', 'fit', '--help']; import cli; cli.main(standalone_mode=False)", ["torch", "numpy", "h5py", "rich", "classify"]),
        ("import cache.schema", ["h5py", "numpy", "torch"]),
        ("import sslfeat, sslfeat.corpora", ["torch", "transformers", "h5py", "sklearn"]),
        ("import classify.report", ["transformers", "h5py", "sslfeat"]),
    ],
    ids=["help", "fit-help", "nouns", "corpora", "report"],
)  # fmt: skip
def test_an_import_loads_no_more_than_it_needs(code, without):
    code += f"; import sys; sys.stderr.write(','.join(name for name in {without} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == ""


@pytest.mark.parametrize("name", PACKAGES)
def test_what_a_package_offers_is_sorted_whole_and_what_it_says(name):
    package = importlib.import_module(name)
    assert package.__all__ == sorted(set(package.__all__))
    tree = ast.parse((ROOT / name / "__init__.py").read_text(encoding="utf-8"))
    offered = {
        alias.asname or alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OWN
        for alias in node.names
    }
    assert set(package.__all__) == set(offered)
    for public, module in offered.items():
        assert getattr(package, public) is getattr(importlib.import_module(str(module)), public)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("name", PACKAGES)
def test_no_offer_has_a_modules_name(name):
    # `from sslfeat import extract` would be the function or the module, by what was imported before.
    package = importlib.import_module(name)
    assert set(package.__all__).isdisjoint(path.stem for path in (ROOT / name).glob("*.py"))


@pytest.mark.parametrize("name", sorted(OWN))
def test_a_top_level_name_is_this_projects(name):
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve().is_relative_to(ROOT)


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_module_has_a_docstring_and_can_be_read_at_one_sitting(source):
    text = (ROOT / source).read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert source.as_posix() in TABLES or len(text.splitlines()) <= LONGEST


@pytest.mark.parametrize("source", [source for source in SOURCES if source.name != "cli.py"], ids=str)
def test_a_module_can_be_imported(source):
    importlib.import_module(module_of(source))


def test_the_command_line_spells_its_choices_as_the_packages_do():
    assert options.POOLINGS == cache.schema.POOLINGS
    named = [name.partition(" ")[0] for name in options.CLASSIFIERS.split(", ")]
    assert named == list(FACTORIES | MIXERS | FRAME_READERS)
    spelt = [name.partition(" ")[0] for name in options.PROTOCOLS.split(", ")]
    assert [re.sub(r"speaker-\d+-fold", "speaker-k-fold", name) for name in spelt] == list(PROTOCOLS)
    assert [find_protocol(name).name for name in spelt] == spelt


def committed() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_committed_file_knows_the_machine_it_was_written_on():
    # Split, so that this file doesn't hold what it looks for.
    words = ["/wor" + "k/", "/ro" + "ot/", "/ho" + "me/", "pytho" + "nhosted", "pypi." + "org/simple", "extra-" + "index-url", "trusted-" + "host"]  # fmt: skip
    found = {}
    for path in committed():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if held := [word for word in words if word in text]:
            found[path.relative_to(ROOT).as_posix()] = held
    assert found == {}


def test_constraints_pin_versions_and_name_no_place():
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.+!]+( *;.*)?", pin)] == []
