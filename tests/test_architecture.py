"""The rules that keep the tree a picture of the method, held by ``ast`` (design: "Who may import whom").

Every rule is a function from a parsed module to its violations. It is run twice: over the whole tree, where it must
find nothing, and over a snippet that breaks it, where it must find something. What ruff can hold (annotations,
docstrings, ``print``, pickle, eval, broad excepts, seven arguments …) is in ``pyproject.toml`` and checked here by
running ruff itself, again over the tree and over snippets that break it.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("vggrpo", "scene_export", "demo")

MAX_FUNCTION_LINES = 80
MAX_FILE_LINES = 500
MAX_DEMO_FILE_LINES = 400

# Parts of vggrpo from the bottom up. A part imports from the rows below its own, never from beside or above it:
# so the four boxes of the figure in the middle row do not know each other.
LAYERS = (
    {"types"},
    {"runtime"},
    {"geometry", "latents"},
    {"worlds", "latent_geometry", "policy", "rewards"},
    {"grpo", "evaluation"},
    {"pretraining"},
    {"presets"},
    {"generation"},
    {"scoring", "planning"},
    {"cli"},
    {"__main__"},
)
# What a package must never import, anywhere in a file.
FORBIDDEN = {
    "vggrpo": {"gradio", "plotly", "viser", "demo"},
    "scene_export": {"torch", "gradio", "plotly", "vggrpo", "demo"},
    "demo.panels": {"torch", "vggrpo", "diffusers"},
    "demo.viewers": {"torch", "vggrpo", "diffusers"},
}
# What may be imported inside functions only: slow, or needs system libraries that a bare machine lacks.
LAZY = {
    "vggrpo": {"open3d", "scene_export"},
    "scene_export": {"open3d", "viser", "trimesh"},
    "demo": {"open3d", "torch", "diffusers", "transformers"},
}
VAGUE_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """One parsed source file; ``name`` is dotted, a package's ``__init__`` carries the package's name."""

    name: str
    source: str
    is_package: bool = False

    @property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.source)

    @property
    def package(self) -> str:
        """What a relative import starts from."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One imported dotted name; ``eager`` when it runs as soon as the module is imported."""

    target: str
    line: int
    eager: bool

    def is_under(self, name: str) -> bool:
        """Whether the target is ``name`` or lies inside it."""
        return self.target == name or self.target.startswith(f"{name}.")


def read_modules() -> list[Module]:
    """Every module of the project's packages, and ``app``."""
    modules = []
    for path in [*(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")), *ROOT.glob("app.py")]:
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules.append(Module(name=name, source=path.read_text(encoding="utf-8"), is_package=is_package))
    return modules


def imports_of(module: Module) -> list[Import]:
    """Everything the module imports; ``from a import b`` counts as ``a.b``, relative imports are resolved."""
    found = []

    def visit(node: ast.AST, eager: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(target=alias.name, line=node.lineno, eager=eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            anchor = module.package.split(".")
            base = ".".join([*anchor[: len(anchor) - node.level + 1], *filter(None, [node.module])])
            base = base if node.level else str(node.module)
            found.extend(Import(target=f"{base}.{a.name}", line=node.lineno, eager=eager) for a in node.names)
        is_deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        )
        for child in ast.iter_child_nodes(node):
            visit(child, eager and not is_deferred)

    visit(module.tree, eager=True)
    return found


def layer_of(dotted: str) -> int | None:
    """The row of ``LAYERS`` that a module of vggrpo belongs to; the package's own ``__init__`` has none."""
    parts = dotted.split(".")
    if parts[0] != "vggrpo" or len(parts) == 1:
        return None
    rows = [row for row, names in enumerate(LAYERS) if parts[1] in names]
    if not rows:
        raise LookupError(f"vggrpo.{parts[1]} is in no layer: place it in LAYERS")
    return rows[0]


def layers_are_kept(module: Module) -> Iterator[str]:
    """A part of vggrpo imports lower parts only."""
    own = layer_of(module.name)
    for entry in imports_of(module):
        if not entry.is_under("vggrpo") or entry.target in {"vggrpo", "vggrpo.__version__"} or own is None:
            continue
        same_part = entry.target.split(".")[1] == module.name.split(".")[1]
        row = layer_of(entry.target)
        if row is not None and row >= own and not same_part:
            yield f"{module.name}:{entry.line} imports {entry.target}, which is beside or above it"


def packages_stay_apart(module: Module) -> Iterator[str]:
    """No user interface in the library, no torch in panels, viewers and exports."""
    for package, forbidden in FORBIDDEN.items():
        if module.name == package or module.name.startswith(f"{package}."):
            for entry in imports_of(module):
                if any(entry.is_under(name) for name in forbidden):
                    yield f"{module.name}:{entry.line} must not import {entry.target}"


def only_the_service_knows_the_library(module: Module) -> Iterator[str]:
    """``demo.service`` and its siblings ``demo.…_service`` are the page's doors to vggrpo."""
    is_service = re.fullmatch(r"demo\.(\w+_)?service", module.name) is not None
    if module.name.split(".")[0] in {"demo", "app"} and not is_service:
        for entry in imports_of(module):
            if entry.is_under("vggrpo"):
                yield f"{module.name}:{entry.line} imports {entry.target}: ask demo.service instead"


def heavy_imports_are_lazy(module: Module) -> Iterator[str]:
    """The page is up in seconds and starts where open3d cannot be imported."""
    for entry in imports_of(module):
        if entry.eager and any(entry.is_under(name) for name in LAZY.get(module.name.split(".")[0], ())):
            yield f"{module.name}:{entry.line} imports {entry.target} at import time"


def names_say_something(module: Module) -> Iterator[str]:
    """No drawer for odds and ends."""
    if vague := VAGUE_NAMES & set(module.name.split(".")):
        yield f"{module.name} is called {', '.join(vague)}"


def functions_are_short(module: Module) -> Iterator[str]:
    """A function fits on a screen or two."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{module.name}:{node.lineno} {node.name} has {lines} lines"


def files_are_short(module: Module) -> Iterator[str]:
    """A file is about one thing."""
    lines = module.source.count("\n")
    most = MAX_DEMO_FILE_LINES if module.name.startswith("demo") else MAX_FILE_LINES
    if module.name == "app":
        most = 40
    if lines > most:
        yield f"{module.name} has {lines} lines"


def results_have_names(module: Module) -> Iterator[str]:
    """Nobody unpacks three results of different kinds by position: that is what dataclasses are for."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not isinstance(node.returns, ast.Subscript):
            continue
        if ast.unparse(node.returns.value) in {"tuple", "Tuple"} and isinstance(node.returns.slice, ast.Tuple):
            kinds = [ast.unparse(kind) for kind in node.returns.slice.elts]
            if len(kinds) > 2 and len(set(kinds)) > 1:  # a colour or a quaternion is one thing
                yield f"{module.name}:{node.lineno} {node.name} returns a tuple of {len(kinds)}"


def loading_runs_no_code(module: Module) -> Iterator[str]:
    """``torch.load`` only with ``weights_only=True``, ``np.load`` never with pickles."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called == "torch.load" and options.get("weights_only") != "True":
            yield f"{module.name}:{node.lineno} torch.load without weights_only=True"
        if options.get("allow_pickle", "False") != "False":
            yield f"{module.name}:{node.lineno} {called} allows pickles"


def no_future_annotations(module: Module) -> Iterator[str]:
    """Strings in place of annotations would switch jaxtyping's checks off."""
    for entry in imports_of(module):
        if entry.target == "__future__.annotations":
            yield f"{module.name}:{entry.line} imports annotations from __future__"


RULES = (
    layers_are_kept,
    packages_stay_apart,
    only_the_service_knows_the_library,
    heavy_imports_are_lazy,
    names_say_something,
    functions_are_short,
    files_are_short,
    results_have_names,
    loading_runs_no_code,
    no_future_annotations,
)
Rule = Callable[[Module], Iterator[str]]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_tree_keeps_the_rule(rule: Rule) -> None:
    assert [violation for module in read_modules() for violation in rule(module)] == []


BREAKING = [
    (layers_are_kept, "vggrpo.rewards.motion", "from vggrpo.policy import sde"),
    (layers_are_kept, "vggrpo.geometry.camera", "import vggrpo.rewards"),
    (layers_are_kept, "vggrpo.latents", "def f():\n    from vggrpo import presets"),
    (layers_are_kept, "vggrpo.rewards.motion", "from ..worlds import scenes"),
    (packages_stay_apart, "vggrpo.cli", "def f():\n    import gradio as gr"),
    (packages_stay_apart, "vggrpo.rewards.motion", "from plotly import graph_objects"),
    (packages_stay_apart, "scene_export.mesh", "import torch.nn"),
    (packages_stay_apart, "demo.panels.inspect", "def f():\n    import torch"),
    (only_the_service_knows_the_library, "demo.blocks", "from vggrpo import presets"),
    (only_the_service_knows_the_library, "app", "import vggrpo.cli"),
    (only_the_service_knows_the_library, "demo.panels.compare_service", "import vggrpo.cli"),
    (heavy_imports_are_lazy, "vggrpo.worlds.render", "import open3d as o3d"),
    (heavy_imports_are_lazy, "vggrpo.worlds.render", "try:\n    from open3d import t\nexcept ImportError:\n    t = 0"),
    (heavy_imports_are_lazy, "demo.service", "class A:\n    import torch"),
    (names_say_something, "vggrpo.geometry.utils", ""),
    (functions_are_short, "vggrpo.latents", "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES),
    (files_are_short, "vggrpo.latents", "x = 1\n" * (MAX_FILE_LINES + 1)),
    (files_are_short, "app", "x = 1\n" * 41),
    (results_have_names, "vggrpo.latents", "def f() -> tuple[int, str, int]: ..."),
    (loading_runs_no_code, "vggrpo.latents", "torch.load(path)"),
    (loading_runs_no_code, "vggrpo.latents", "np.load(path, allow_pickle=True)"),
    (no_future_annotations, "vggrpo.latents", "from __future__ import annotations"),
]
KEEPING = [
    (layers_are_kept, "vggrpo.rewards.motion", "from vggrpo.geometry import so3\nfrom .terms import a\nimport torch"),
    (layers_are_kept, "vggrpo.cli", "from vggrpo import generation, presets"),
    (packages_stay_apart, "vggrpo.cli", "def f():\n    from scene_export import recording"),
    (only_the_service_knows_the_library, "demo.service", "from vggrpo import generation"),
    (only_the_service_knows_the_library, "demo.compare_service", "from vggrpo import generation"),
    (heavy_imports_are_lazy, "vggrpo.worlds.render", "def f():\n    import open3d"),
    (heavy_imports_are_lazy, "vggrpo.worlds.render", "if TYPE_CHECKING:\n    import open3d"),
    (functions_are_short, "vggrpo.latents", "def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1)),
    (results_have_names, "vggrpo.latents", "def f() -> tuple[int, ...]: ...\ndef g() -> tuple[int, str]: ..."),
    (loading_runs_no_code, "vggrpo.latents", "torch.load(path, weights_only=True)\nnp.load(path, allow_pickle=False)"),
]


@pytest.mark.parametrize(("rule", "name", "source"), BREAKING)
def test_rule_sees_what_breaks_it(rule: Rule, name: str, source: str) -> None:
    assert list(rule(Module(name=name, source=source)))


@pytest.mark.parametrize(("rule", "name", "source"), KEEPING)
def test_rule_accepts_what_keeps_it(rule: Rule, name: str, source: str) -> None:
    assert list(rule(Module(name=name, source=source))) == []


def test_every_rule_can_fail() -> None:
    assert {rule for rule, _, _ in BREAKING} == set(RULES)


def test_the_page_starts_without_models_and_without_open3d() -> None:
    """A bare machine lacks open3d's system libraries, and nobody waits for torch to see a page."""
    heavy = {"torch", "diffusers", "transformers", "peft", "viser", "trimesh"}
    code = f"import sys; sys.modules['open3d'] = None; import app; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout.strip().splitlines()[-1:] == ["[]"], result.stdout + result.stderr


# --- What ruff holds -------------------------------------------------------------------------------------------------


def run_ruff(*arguments: str, source: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ruff", *arguments]
    return subprocess.run(command, cwd=ROOT, input=source, capture_output=True, text=True, check=False)


def test_ruff_finds_nothing() -> None:
    result = run_ruff("check", "--no-cache", "--output-format", "concise", ".")
    assert result.returncode == 0, result.stdout


def test_ruff_would_format_nothing() -> None:
    result = run_ruff("format", "--no-cache", "--check", ".")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("code", "source"),
    [
        ("ANN001", "def f(x) -> None: ...\n"),
        ("ANN201", "def f(): ...\n"),
        ("BLE001", "try:\n    x = 1\nexcept Exception:\n    x = 2\n"),
        ("D100", "x = 1\n"),
        ("D103", "def f() -> None: ...\n"),
        ("E722", "try:\n    x = 1\nexcept:\n    x = 2\n"),
        ("ERA001", "# x = compute(1)\n"),
        ("F841", "def f() -> None:\n    x = 1\n"),
        ("FBT001", "def f(x: bool) -> None: ...\n"),
        ("PLR0913", "def f(a: int, b: int, c: int, d: int, e: int, f: int, g: int, h: int) -> None: ...\n"),
        ("S102", "exec('x = 1')\n"),
        ("S307", "eval('1')\n"),
        ("T201", "print(1)\n"),
        ("TID251", "import pickle\n"),
    ],
)
def test_ruff_sees_what_breaks_the_house_rules(code: str, source: str) -> None:
    result = run_ruff("check", "--no-cache", "--stdin-filename", "vggrpo/snippet.py", "-", source=source)
    assert result.returncode == 1
    assert code in result.stdout


# --- What pip installs -----------------------------------------------------------------------------------------------


def required_distributions(text: str) -> set[str]:
    """The names in a requirements file, lower case, dashes only."""
    names = re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*)", text, flags=re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def test_every_third_party_import_is_required() -> None:
    required = required_distributions((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    distributions = packages_distributions()
    # A Space with a lent GPU brings `spaces`; nothing imports it elsewhere.
    own = {*PACKAGES, "app", "spaces", *sys.stdlib_module_names}
    undeclared = {
        f"{module.name}:{entry.line} {top}"
        for module in read_modules()
        for entry in imports_of(module)
        if (top := entry.target.split(".")[0]) not in own
        and not required & {re.sub(r"[-_.]+", "-", name).lower() for name in distributions.get(top, [top])}
    }
    assert undeclared == set()


def test_required_distributions_reads_names_only() -> None:
    text = '# numpy\ntorch>=2.8\n-r other.txt\nopen3d-cpu>=0.19; sys_platform == "linux"\nsome[extra]>=1\nA_b.c\n'
    assert required_distributions(text) == {"torch", "open3d-cpu", "some", "a-b-c"}
