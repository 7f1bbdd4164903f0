"""Who imports what, and when: read from the source, and measured in a fresh Python."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import curvescope

PACKAGE = Path(curvescope.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
OPTIONAL = (
    "matplotlib",
    "pandas",
    "scipy",
    "sklearn",
    "tyro",
    "pooch",
    "timm",
    "transformers",
    "torchvision",
)


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def imported(node):
    """Return the modules that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return []


def imports(tree):
    """Yield every import with what it stands in: the module, a function, a type check."""

    def walk(node, place):
        for child in ast.iter_child_nodes(node):
            inner = place
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                inner = "function"
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                inner = "types"
            for module in imported(child):
                yield module, inner, child.lineno
            yield from walk(child, inner)

    yield from walk(tree, "module")


def top(module):
    return module.partition(".")[0]


def own_imports_inside_functions(tree):
    found = imports(tree)
    return [
        line for m, place, line in found if top(m) == "curvescope" and place != "module"
    ]


def optional_imports_outside_functions(tree):
    found = imports(tree)
    return [
        line for m, place, line in found if top(m) in OPTIONAL and place == "module"
    ]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_own_modules_are_imported_at_the_top_only(path):
    lines = own_imports_inside_functions(ast.parse(path.read_text()))

    assert lines == [], f"{name_of(path)} imports curvescope inside a function"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_optional_packages_are_imported_inside_functions_only(path):
    if path.name == "options.py" and path.parent.name == "cli":
        pytest.skip(
            "the options are annotated with tyro; only the command imports them"
        )
    lines = optional_imports_outside_functions(ast.parse(path.read_text()))

    assert lines == [], f"{name_of(path)} imports an optional package when imported"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_are_absolute(path):
    tree = ast.parse(path.read_text())

    relative = [n.lineno for n in ast.walk(tree) if getattr(n, "level", 0)]

    assert relative == []


def test_theory_imports_no_array_library():
    for path in (PACKAGE / "theory").rglob("*.py"):
        found = [m for m, _, _ in imports(ast.parse(path.read_text()))]

        assert not {top(m) for m in found} & {"torch", "numpy", "scipy", *OPTIONAL}


def test_the_two_import_checks_can_fail():
    own = ast.parse("def f():\n    from curvescope import linalg\n")
    other = ast.parse(
        "import torch\ntry:\n    import scipy.sparse\nexcept E:\n    x = 1\n"
    )
    fine = ast.parse("import curvescope\ndef f():\n    import scipy.sparse\n")

    assert own_imports_inside_functions(own) == [2]
    assert optional_imports_outside_functions(other) == [3]
    assert own_imports_inside_functions(fine) == []
    assert optional_imports_outside_functions(fine) == []


def modules_after(statement):
    code = f"{statement}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_of_the_package_needs_the_core_dependencies_only():
    core = "import torch, numpy, rich, safetensors, jinja2, jaxtyping"

    added = modules_after("import curvescope") - modules_after(core)

    assert not {top(name) for name in added} & set(OPTIONAL)
    # 400 modules are about half a second from a warm disk.
    assert len(added) < 400
