"""The layers of DESIGN 3, read off the imports: 3 -> 2 -> 1 -> 0, and who alone may import what."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "deme"
FILES = sorted(PACKAGE.rglob("*.py"))

GROUND = {"errors", "files", "paths", "processes", "signals"}  # standard library only
PURE = {
    "schedule",
    "conditions",
    "ranges",
    "clustering",
    "timesteps",
    "seeds",
    "weighting",
    "balancing",
}
COMPONENTS = {"data", "models", "merging", "sampling", "metrics", "tensors", "hugging_face"}
LEARNING = {"methods", "training"}
RUNS = {
    "checks",
    "config",
    "inputs",
    "runs",
    "suite_file",
    "suites",
    "stages",
    "report",
    "analysis",
    "cli",
}
LAYER = {
    name: level
    for level, names in enumerate((GROUND, PURE, COMPONENTS, LEARNING, RUNS))
    for name in names
}


def part(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            found.append(node.module)
            if node.module in ("deme", "deme.commands", "deme.report", "deme.training"):
                found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def inner(file: Path) -> set[str]:
    parts = {name.split(".")[1] for name in imports(file) if name.startswith("deme.")}
    return {
        name for name in parts if (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()
    }


def outer(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(file)} - {"deme"}


def top_level_imports(file: Path) -> set[str]:
    body = [
        node
        for node in ast.parse(file.read_text()).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    return {
        (node.names[0].name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
        for node in body
    }


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_downwards(file):
    if part(file) in ("__init__", "__main__"):
        return
    assert part(file) in LAYER, f"say in which layer {part(file)} is"
    for other in inner(file):
        assert LAYER[other] <= LAYER[part(file)], (
            f"{file.name} (layer {LAYER[part(file)]}) imports deme.{other}"
        )


def test_ground_needs_the_standard_library_alone_and_mathematics_torch():
    import sys

    for file in FILES:
        if part(file) in GROUND:
            hub = (
                {"huggingface_hub"} if file.stem == "paths" else set()
            )  # only when a path names it
            assert outer(file) <= hub | set(sys.stdlib_module_names)
            assert top_level_imports(file) - {"deme"} <= set(sys.stdlib_module_names)
        if part(file) in PURE:
            assert outer(file) <= {"torch", *sys.stdlib_module_names}
            assert not inner(file) & GROUND, f"{file.name}: no IO in the mathematics"


def test_one_package_imports_lightning_and_one_layer_hydra():
    for file in FILES:
        assert "lightning" not in outer(file)
        if part(file) != "training":
            assert "pytorch_lightning" not in outer(file)
        if part(file) not in RUNS:
            assert not outer(file) & {"hydra", "omegaconf"}


def test_merging_does_not_know_models_and_components_not_each_other():
    allowed = {"data": {"data", "tensors"}, "models": {"models", "tensors", "hugging_face"}, "merging": {"merging", "tensors"}, "tensors": set(), "hugging_face": set(),
               "sampling": {"sampling", "data"}, "metrics": {"metrics", "data", "tensors", "hugging_face"}}  # fmt: skip
    for file in FILES:
        if part(file) in COMPONENTS:
            assert inner(file) & COMPONENTS <= allowed[part(file)], file


def test_tables_and_decisions_need_no_torch():
    """report/, suites, runs and the light halves of the stages import nothing heavy when they are imported."""
    light = [
        f
        for f in FILES
        if part(f)
        in {*GROUND, "checks", "config", "inputs", "runs", "suite_file", "suites", "report", "cli"}
    ]
    heavy = (
        "common",
        "measure",
        "learner",
        "partition",
        "extractors",
        "sources",
        "images",
        "audit",
        "labels",
        "objective",
        "passport",
        "live",
        "checkpoints",
        "prompted",
        "scores",
        "audit_scores",
    )
    light += [f for f in FILES if part(f) == "stages" and f.stem not in heavy]
    for file in light:
        assert not top_level_imports(file) & {
            "torch",
            "diffusers",
            "pytorch_lightning",
            "sklearn",
            "wandb",
        }, file


def test_files_are_short_enough_to_hold_in_your_head():
    lengths = sorted(len(f.read_text().splitlines()) for f in FILES if f.stem != "__init__")
    assert lengths[len(lengths) // 2] <= 120
    assert lengths[-1] <= 320


def test_every_package_is_in_the_wheel():
    import tomllib

    listed = set(
        tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"][
            "packages"
        ]
    )
    found = {".".join(("deme", *f.parent.relative_to(PACKAGE).parts)) for f in FILES}
    assert listed == found | {"deme.conf", "deme.assets"}
