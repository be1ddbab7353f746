"""Types of arguments and results are checked in the test run, and shapes where a signature gives them.

jaxtyping's own import hook gives every function a memory of shapes, which costs 30 microseconds a call, and gives it
to inner functions anew each time they are made: a third of all that the tests compute. Here the functions that name
shapes get it, the others beartype alone; inner functions are left to the static check.
"""

from __future__ import annotations

import ast
import inspect
import sys
import types
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any, get_type_hints

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, TypeCheckError, jaxtyped

PACKAGES = ("probseq.ops", "probseq.cells", "probseq.emissions")
PLAIN = beartype(conf=BeartypeConf(violation_type=TypeCheckError))


def install() -> None:
    """Check what is imported from the packages from now on."""
    early = [name for name in PACKAGES if name in sys.modules]
    assert not early, f"imported too early to be checked: {', '.join(early)}"
    sys.meta_path.insert(0, Finder())


def checked(function: Any) -> Any:
    """The decorator of every function and dataclass of the packages."""
    if inspect.isclass(function):
        function.__init__ = checked(function.__init__)
        return function
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(checked(function.__func__))
    hints = {name: resolved(hint, function.__globals__) for name, hint in function.__annotations__.items()}
    function.__annotations__ = hints
    return jaxtyped(function, typechecker=beartype) if any(map(names_shape, hints.values())) else PLAIN(function)


def resolved(hint: Any, names: dict[str, Any]) -> Any:
    """What the text of an annotation says; anything where it names what is imported for the static check alone."""

    def holder() -> None: ...

    holder.__annotations__ = {"value": hint}
    try:
        return get_type_hints(holder, names, include_extras=True)["value"]
    except NameError:
        return Any


def names_shape(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(names_shape(part) for part in getattr(hint, "__args__", ()))


class Loader(SourceFileLoader):
    """Compiles a module with the decorator on its functions; what it compiles is nowhere kept."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        decorate(tree)
        place = sum(map(is_preamble, tree.body[:2]))
        tree.body.insert(place, ast.parse("from tests.typed import checked as _checked").body[0])
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


def is_preamble(node: ast.stmt) -> bool:
    """The docstring, and the import that has to come first."""
    return isinstance(node, ast.Expr) or (isinstance(node, ast.ImportFrom) and node.module == "__future__")


def decorate(tree: ast.Module | ast.ClassDef) -> None:
    """Innermost on functions and methods, outermost on dataclasses."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            node.decorator_list.append(ast.Name("_checked", ast.Load(), lineno=node.lineno, col_offset=0))
        elif isinstance(node, ast.ClassDef):
            if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
                node.decorator_list.insert(0, ast.Name("_checked", ast.Load(), lineno=node.lineno, col_offset=0))
            decorate(node)


class Finder(MetaPathFinder):
    """Finds the modules of the packages for `Loader`."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if not any(fullname == name or fullname.startswith(name + ".") for name in PACKAGES):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec
