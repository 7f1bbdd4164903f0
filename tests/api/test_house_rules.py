"""Rules of the house that are read from the source."""

import ast
from pathlib import Path

import pytest

import curvescope

PACKAGE = Path(curvescope.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def called_names(tree):
    """Return the names of all functions called, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "attr", getattr(function, "id", ""))
            yield name, node


def wrong_derivatives(tree):
    """Return lines that use what is wrong on norm layers.

    `torch.func.hessian`, and `jacrev` of anything but a gradient
    (docs/explain/second-derivatives.md).
    """
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "torch.func":
            lines += [node.lineno for a in node.names if a.name == "hessian"]
        if isinstance(node, ast.Attribute) and ast.unparse(node).endswith(
            "func.hessian"
        ):
            lines.append(node.lineno)
    for name, node in called_names(tree):
        if name == "jacrev":
            inner = node.args[0] if node.args else None
            function = getattr(inner, "func", None)
            if getattr(function, "attr", getattr(function, "id", "")) != "grad":
                lines.append(node.lineno)
    return sorted(lines)


def unsafe_loads(tree):
    """Return the lines that read a pickle, or call `torch.load` on anything else."""
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in {"pickle.load", "pickle.loads"}
    ]
    for name, node in called_names(tree):
        owner = getattr(getattr(node.func, "value", None), "id", "")
        if (owner, name) == ("torch", "load"):
            given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            if given.get("weights_only") is not True:
                lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_source_is_ascii_and_breaks_no_rule(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)

    assert text.isascii()
    assert wrong_derivatives(tree) == []
    assert unsafe_loads(tree) == []


def test_the_rules_can_fail():
    wrong = "torch.func.hessian(f)(x)\njacrev(f)\nfrom torch.func import hessian"

    assert wrong_derivatives(ast.parse(wrong)) == [1, 2, 3]
    assert wrong_derivatives(ast.parse("jacrev(torch.func.grad(f))(x)")) == []
    assert unsafe_loads(ast.parse("torch.load(p)")) == [1]
    assert unsafe_loads(ast.parse("torch.load(p, weights_only=True)")) == []
    assert unsafe_loads(ast.parse("import pickle\npickle.load(f)")) == [2]
