"""Private names of libraries are used in adapters alone, which tests check against the library.

As far as the syntax tells: an import of a private module or name, an attribute of something else
than `self`, and an attribute of `self` that a class with a base of a library does not make itself.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OWN = ("search", "trainables", "spaces", "benchmarks")
FILES = sorted(path.relative_to(ROOT) for package in OWN for path in (ROOT / package).rglob("*.py"))
ADAPTERS = {
    "benchmarks/fake_quantization.py": {"_fake_quantize_learnable_per_tensor_affine"},
    "benchmarks/gpu.py": {"_python_dispatch", "_pytree", "_schema"},
    "search/execution/ray_internals.py": {
        "_ActorClassCache",
        "_actor_id",
        "_global_node",
        "_private",
        "_raylet",
    },
    "search/storage/optuna_storage.py": {"_storage", "_get_trials"},
    "trainables/models/outline.py": {"_parameters", "_buffers", "_modules"},
}
"""The private names that a file may use."""
DOCUMENTED = {"_exit", "_replace", "_asdict", "_fields", "_make"}
"""Of `os` and of named tuples: public, whatever their names say."""
BY_NAME = ("getattr", "setattr", "hasattr", "delattr", "attrgetter", "methodcaller")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED


def private_names(tree: ast.Module) -> Iterator[str]:
    """The private names of others that a file uses."""
    libraries: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                parts = f"{module}.{alias.name}".strip(".").split(".")
                if parts[0] not in OWN and not getattr(node, "level", 0):
                    libraries.add(alias.asname or (alias.name if module else parts[0]))
                    yield from filter(is_private, parts)
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and not is_self(node.value):
            yield node.attr
        elif isinstance(node, ast.Call) and name_of(node.func) in BY_NAME:
            constants = (a.value for a in node.args if isinstance(a, ast.Constant))
            yield from (each for each in constants if isinstance(each, str) and is_private(each))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(root_of(b) in libraries for b in node.bases):
            yield from inherited_private_names(node)


def inherited_private_names(node: ast.ClassDef) -> Iterator[str]:
    """Those that a class reads from `self`, and does not make itself."""
    own = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    uses = [
        each
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute) and is_private(each.attr) and is_self(each.value)
    ]
    own |= {use.attr for use in uses if isinstance(use.ctx, ast.Store)}
    yield from (use.attr for use in uses if use.attr not in own)


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def name_of(function: ast.expr) -> str:
    match function:
        case ast.Name():
            return function.id
        case ast.Attribute():
            return function.attr
    return ""


def root_of(base: ast.expr) -> str:
    """The name that a dotted or subscripted name begins with."""
    while isinstance(base, ast.Attribute | ast.Subscript):
        base = base.value
    return base.id if isinstance(base, ast.Name) else ""


@pytest.mark.parametrize("path", FILES, ids=str)
def test_private_names_of_libraries_are_used_in_adapters_alone(path: Path) -> None:
    found = set(private_names(ast.parse((ROOT / path).read_text())))
    assert found == ADAPTERS.get(str(path), set())


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import ray._private", {"_private"}),
        ("from ray._private import services", {"_private"}),
        ("from optuna.storages import _cached", {"_cached"}),
        ("import ray\nray._private.worker._global_node", {"_private", "_global_node"}),
        ("study._storage", {"_storage"}),
        ("self.study._storage", {"_storage"}),
        ("getattr(study, '_storage', None)", {"_storage"}),
        ("import optuna\nclass A(optuna.trial.FixedTrial):\n def f(self): self._x", {"_x"}),
        ("from a import B\nclass A(B[int]):\n def f(self): self._x = self._y", {"_y"}),
        ("from a import B\nclass A(B):\n def f(self): self._g()\n def _g(self): pass", set()),
        ("class A:\n def f(self): self._x", set()),
        ("from spaces._parts import WIDTH", set()),
        ("from __future__ import annotations\na.__name__", set()),
        ("os._exit(1); pair._replace(x=1)", set()),
    ],
)
def test_private_names_are_found(code: str, found: set[str]) -> None:
    assert set(private_names(ast.parse(code))) == found
