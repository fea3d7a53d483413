"""The structure of the package: layers, who may import what, and measures of size (docs/main-path.md)."""

import ast
import re
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "deme"
FILES = sorted(set(PACKAGE.rglob("*.py")) - set((PACKAGE / "assets").rglob("*.py")))

LAYERS = {  # an import may only point to a folder of a lower layer, or of the same folder
    "api": 6,
    "cli": 6,
    "commands": 5,
    "evaluation": 4,
    "builders": 4,
    "training": 3,
    "analysis": 3,
    "tracking": 3,
    "methods": 2,
    "sampling": 2,
    "metrics": 2,
    "report": 2,
    "data": 1,
    "models": 1,
    "merging": 1,
    "runs": 1,
    "diffusion": 0,
    "system": 0,
}
SAME_LAYER = {("evaluation", "builders")}  # the only arrow between two folders of one layer
ONLY = {  # packages of others that only these folders import
    "pytorch_lightning": {"training"},
    "hydra": {"cli", "commands", "builders", "runs"},
    "omegaconf": {"cli", "commands", "builders", "runs"},
    "wandb": {"tracking"},
    "wandb_workspaces": {"tracking"},
    "mlflow": {"tracking"},
    "tensorboard": {"tracking"},
}
HEAVY = {"torch", "diffusers", "pytorch_lightning", "sklearn", "scipy", "transformers", "wandb",
         "wandb_workspaces", "mlflow", "tensorboard"}  # fmt: skip
LIGHT = {
    "api",
    "cli",
    "commands",
    "runs",
    "report",
    "tracking",
}  # these import nothing heavy when they are imported


def folder(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0]


def name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def imported(tree: ast.AST) -> list[str]:
    """Every module that is imported anywhere in a file, also inside functions."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found.append(node.module)
    return found


def top_level(tree: ast.Module) -> list[str]:
    return imported(
        ast.Module([n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))], [])
    )


TREES = {file: ast.parse(file.read_text()) for file in FILES}


def arrows() -> set[tuple[str, str, str]]:
    """(file, folder of the file, folder that it imports), for imports across folders."""
    found = set()
    for file, tree in TREES.items():
        for module in imported(tree):
            parts = module.split(".")
            if parts[0] == "deme" and len(parts) > 1 and parts[1] != folder(file):
                found.add((name(file), folder(file), parts[1]))
    return found


def test_nothing_but_the_entry_points_lies_loose_in_the_package():
    assert {file.name for file in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}
    assert {folder(file) for file in FILES if file.parent != PACKAGE} == set(LAYERS)


def test_imports_point_to_lower_layers():
    violations = [
        f"{file}: {start} (layer {LAYERS[start]}) imports {end} (layer {LAYERS[end]})"
        for file, start, end in sorted(arrows())
        if start in LAYERS and LAYERS[end] >= LAYERS[start] and (start, end) not in SAME_LAYER
    ]
    assert not violations, "\n".join(violations)


def test_each_outer_package_has_its_folders():
    violations = [
        f"{name(file)} imports {module}"
        for file, tree in TREES.items()
        for module in imported(tree)
        if folder(file) not in ONLY.get(module.split(".")[0], {folder(file)})
    ]
    violations += [
        f"{name(file)} imports {module}: no file access in the mathematics"
        for file, tree in TREES.items()
        if folder(file) == "diffusion"
        for module in imported(tree)
        if module.split(".")[0] not in {"torch", "deme", *sys.stdlib_module_names}
        or module.startswith("deme.system.files")
    ]
    assert not violations, "\n".join(violations)


def test_packages_are_imported_through_their_interface():
    """A name in the __all__ of a package has one import path outside of it."""
    interfaces = {
        file.parent.name: {name.value for node in tree.body for name in exported(node)}
        for file, tree in TREES.items()
        if file.name == "__init__.py" and file.parent.parent == PACKAGE
    }
    violations = [
        f"{name(file)} imports {alias.name} from {node.module}"
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and re.match(r"deme\.\w+\.", node.module)
        for alias in node.names
        if (package := node.module.split(".")[1]) != folder(file)
        and alias.name in interfaces[package]
    ]
    assert interfaces["runs"] > {"Run", "Suite"}
    assert not violations, "\n".join(violations)


def exported(node: ast.stmt) -> list[ast.Constant]:
    """The names in an assignment to __all__."""
    is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    return node.value.elts if is_all else []


def test_commands_start_without_torch():
    violations = [
        f"{name(file)} imports {module}"
        for file, tree in TREES.items()
        if folder(file) in LIGHT
        for module in top_level(tree)
        if module.split(".")[0] in HEAVY
    ]
    assert not violations, "\n".join(violations)


def test_modules_are_short():
    lengths = {name(file): len(file.read_text().splitlines()) for file in FILES}
    assert {file: n for file, n in lengths.items() if n > 300} == {}
    assert sorted(lengths.values())[len(lengths) // 2] <= 120


def test_lines_have_at_most_100_columns():
    long = [
        f"{name(file)}:{number}"
        for file in FILES
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if len(line) > 100
    ]
    assert not long, "\n".join(long)


CONFIG = re.compile(r"(^|[^\w.])((\w+\.)*config)(\[|\.get\()")
OF_DIFFUSERS = re.compile(
    r"(scheduler|network|unet|vae|self)\.config$"
)  # attributes of diffusers' classes


def test_a_config_is_read_in_commands_and_builders_only():
    """Everywhere else code takes values or settings (deme/runs/settings makes them of a config)."""
    found = []
    for file in FILES:
        if name(file).startswith(("commands/", "builders/", "runs/settings/")):
            continue
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            read = [m[2] for m in CONFIG.finditer(line) if not OF_DIFFUSERS.search(m[2])]
            found += [f"{name(file)}:{number}: {line.strip()}"] if read else []
    assert not found, "\n".join(found)


def annotations(tree: ast.AST) -> list[ast.expr]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation is not None:
            found.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns:
            found.append(node.returns)
    return found


def test_types_are_known():
    every = [annotation for tree in TREES.values() for annotation in annotations(tree)]
    unknown = [
        annotation
        for annotation in every
        if any(isinstance(n, ast.Name) and n.id == "Any" for n in ast.walk(annotation))
    ]
    assert len(unknown) < 0.03 * len(every)


def test_every_package_is_in_the_wheel():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {".".join(("deme", *file.parent.relative_to(PACKAGE).parts)) for file in FILES}
    assert listed == found | {"deme.conf", "deme.experiments", "deme.assets"}
    assert all(a < b for a, b in pairwise(project["tool"]["setuptools"]["packages"]))
