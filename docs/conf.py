"""Sphinx configuration; the reference is written from each room's ``__all__``."""

import importlib
import importlib.metadata
import inspect
import pkgutil
from pathlib import Path

import curvescope

HERE = Path(__file__).parent

project = "curvescope"
author = "the curvescope developers"
copyright = "2026, the curvescope developers"
version = release = importlib.metadata.version("curvescope")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
nitpicky = True
# The build needs no network, so names of other packages are not looked up.
nitpick_ignore_regex = [
    ("py:.*", r"(?!curvescope\b)(?!cs\.).*"),
    # Inner rooms: their types stand in signatures, but have no page.
    ("py:.*", r"curvescope\.(_core|autodiff)\..*"),
    ("py:.*", r"curvescope\.problem\.(batches|shared)\..*"),
    ("py:.*", r"curvescope\.problem\.problem\._T"),
    ("py:.*", r"curvescope\.curvature\.choices\.Choices"),
    ("py:.*", r"curvescope\.exact\.(network|activations)\..*"),
    ("py:.*", r"curvescope\.experiments\.base\..*"),
    ("py:.*", r"curvescope\.analysis\.tracking_.*"),
]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Cost"]

html_theme = "furo"
html_title = "curvescope"
html_static_path = ["_static"]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def public_names(module):
    """Return what a room exports: its ``__all__``, or what it defines itself."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    ]


def rooms():
    """Return the public rooms that export anything, and the rooms in them, by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(curvescope.__path__))
    modules = {}
    for name in [name for name in names if not name.startswith("_")]:
        modules[name] = room = importlib.import_module(f"curvescope.{name}")
        for inner in pkgutil.iter_modules(getattr(room, "__path__", [])):
            if inner.ispkg and not inner.name.startswith("_"):
                full = f"{name}.{inner.name}"
                modules[full] = importlib.import_module(f"curvescope.{full}")
    return {name: room for name, room in modules.items() if exports(room)}


def exports(module):
    """Tell whether a room exports anything but modules."""
    values = [getattr(module, name) for name in public_names(module)]
    return any(not inspect.ismodule(value) for value in values)


def directive(value):
    """Return the autodoc directive for an object."""
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if inspect.isroutine(value) else "autodata"


def has_public_base(value):
    """Tell whether a class derives from one that has an entry of its own."""
    exported = {id(getattr(m, n)) for m in rooms().values() for n in public_names(m)}
    return any(id(base) in exported for base in value.__bases__)


def room_page(name, module, documented):
    """Write one room's page; an object has its entry in the first room only."""
    full = f"curvescope.{name}"
    lines = [
        full,
        "=" * len(full),
        "",
        f".. automodule:: {full}",
        "   :no-members:",
        "",
    ]
    for public in public_names(module):
        value = getattr(module, public)
        if inspect.ismodule(value) or documented.get(id(value)):
            continue
        documented[id(value)] = f"{full}.{public}"
        kind = directive(value)
        lines += [f".. {kind}:: {full}.{public}"]
        if kind == "autoclass":
            lines.append("   :members:")
            lines += ["   :show-inheritance:"] if has_public_base(value) else []
        lines.append("")
    return "\n".join(lines)


def summary(value):
    """Return the first line of an object's docstring."""
    return (inspect.getdoc(value) or "").partition("\n")[0].replace("`", "``")


def names_page(documented):
    """Write the table of the names that ``import curvescope as cs`` gives."""
    lines = ["The short names", "===============", ""]
    lines += ["What ``import curvescope as cs`` gives.", "", ".. list-table::", ""]
    for public in getattr(curvescope, "__all__", ()):
        value = getattr(curvescope, public)
        target = documented.get(id(value))
        link = f":py:obj:`cs.{public} <{target}>`" if target else f"``cs.{public}``"
        text = "" if inspect.ismodule(value) else summary(value)
        lines += [f"   * - {link}", f"     - {text}"]
    has_rows = lines[-1] != ""
    return "\n".join(lines if has_rows else lines[:4]) + "\n"


def write_reference():
    """Write ``reference/generated``: a new room, or a new name, appears by itself."""
    folder = HERE / "reference" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    documented = {}
    for name, module in rooms().items():
        page = room_page(name, module, documented)
        (folder / f"{name}.rst").write_text(page, encoding="utf-8")
    (folder / "names.rst").write_text(names_page(documented), encoding="utf-8")


write_reference()
