"""The rules that the house keeps of itself, read off the syntax trees of one package folder.

Each check takes the folder of the package and returns its faults, an empty list when all is well. What is allowed
where stands in `tests.house_plan`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.house_plan import (
    BROAD_HANDLERS,
    ENVIRONMENT_READERS,
    FILE_PACKAGES,
    GROUND,
    MAX_FILE_LINES,
    MAX_FUNCTION_LINES,
    PACKAGE,
    ROOMS,
    TOP,
)

_UNSAFE_MODULES = frozenset({"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"})
_UNSAFE_CALLS = frozenset({"eval", "exec", "torch.load", "torch.hub.load"})
_UNSAFE_KEYWORDS = frozenset({"trust_remote_code", "allow_pickle"})
_EMPTY_NAMES = re.compile(r"utils?|common|helpers?|misc")
_LEFT_UNDONE = re.compile(r"\b(TODO|FIXME|XXX)\b")
_SURROUNDINGS = frozenset({"os.environ", "os.getenv", "os.environb", "sys.argv"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken rule, and where."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass(frozen=True, slots=True)
class Source:
    """One file: `path` with slashes from the package folder, its text and its tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """The room the file belongs to; every `__main__` belongs to the command line."""
        parts = self.path.removesuffix(".py").split("/")
        return "cli" if parts[-1] == "__main__" else parts[0]


def read(root: Path) -> list[Source]:
    """Return every Python file under `root`, in order of its path."""
    files = sorted(root.rglob("*.py"))
    return [_parsed(file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")) for file in files]


@cache  # each rule reads the whole package
def _parsed(path: str, text: str) -> Source:
    return Source(path, text, ast.parse(text))


def floors(root: Path) -> list[Fault]:
    """Imports go down the floors, never sideways, never to the top name, and only to packages of the room's list."""
    faults = []
    for source in read(root):
        if source.room not in ROOMS:
            faults.append(Fault(source.path, 1, f"room {source.room!r} stands on no floor; enter it in ROOMS"))
            continue
        for line, target in _imports(root, source):
            if text := _forbidden(source, target):
                faults.append(Fault(source.path, line, text))
    return faults


def doors(root: Path) -> list[Fault]:
    """Every folder with code has an `__init__.py`: without one it would miss from the installed package."""
    folders = {file.parent for file in root.rglob("*.py")}
    return [
        Fault(f"{folder.relative_to(root).as_posix()}/__init__.py", 1, "the folder has no door")
        for folder in sorted(folders)
        if not (folder / "__init__.py").is_file()
    ]


def docstrings(root: Path) -> list[Fault]:
    """Every module, and every public class, function and method has a docstring; dunders and overloads need none."""
    faults = []
    for source in read(root):
        if ast.get_docstring(source.tree) is None:
            faults.append(Fault(source.path, 1, "the module has no docstring"))
        faults += [
            Fault(source.path, node.lineno, f"{node.name} has no docstring")
            for node in _public(source.tree)
            if ast.get_docstring(node) is None
        ]
    return faults


def sizes(root: Path) -> list[Fault]:
    """Files and functions stay below their limits."""
    faults = []
    for source in read(root):
        num_lines = source.text.count("\n")
        if num_lines > MAX_FILE_LINES:
            faults.append(Fault(source.path, num_lines, f"{num_lines} lines, over {MAX_FILE_LINES}"))
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    text = f"{node.name} has {length} lines, over {MAX_FUNCTION_LINES}"
                    faults.append(Fault(source.path, node.lineno, text))
    return faults


def names(root: Path) -> list[Fault]:
    """No file or folder is named after nothing, and nothing is left to be done."""
    faults = []
    for source in read(root):
        for part in source.path.removesuffix(".py").split("/"):
            if _EMPTY_NAMES.fullmatch(part.strip("_")):
                faults.append(Fault(source.path, 1, f"the name {part!r} says nothing; name the noun inside"))
        for number, text in enumerate(source.text.splitlines(), start=1):
            if match := _LEFT_UNDONE.search(text):
                faults.append(Fault(source.path, number, f"{match[0]} left in the tree"))
    return faults


def safety(root: Path) -> list[Fault]:
    """Nothing is unpickled or evaluated, and no code comes with a checkpoint."""
    faults = []
    for source in read(root):
        for line, target in _imports(root, source):
            if target.partition(".")[0] in _UNSAFE_MODULES or target in _UNSAFE_CALLS:
                faults.append(Fault(source.path, line, f"imports {target}, which runs what it reads"))
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and (name := _dotted(node.func)) in _UNSAFE_CALLS:
                faults.append(Fault(source.path, node.lineno, f"calls {name}, which runs what it reads"))
            if isinstance(node, ast.keyword) and node.arg in _UNSAFE_KEYWORDS and not _is_false(node.value):
                faults.append(Fault(source.path, node.value.lineno, f"{node.arg} is not False"))
    return faults


def handlers(root: Path) -> list[Fault]:
    """No bare `except:`; Exception is caught only to be raised again, or in the files of BROAD_HANDLERS."""
    faults = []
    for source in read(root):
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            if node.type is None:
                faults.append(Fault(source.path, node.lineno, "bare except"))
            elif _is_broad(node.type) and not _raises_again(node) and source.path not in BROAD_HANDLERS:
                text = "catches every exception; name them, or enter the file in BROAD_HANDLERS with its reason"
                faults.append(Fault(source.path, node.lineno, text))
    return faults


def surroundings(root: Path) -> list[Fault]:
    """Only the command line reads argv and the environment."""
    return [
        Fault(source.path, node.lineno, f"reads {name} below the command line")
        for source in read(root)
        if ROOMS.get(source.room, ROOMS["errors"]).floor < TOP and source.path not in ENVIRONMENT_READERS
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and (name := _dotted(node)) in _SURROUNDINGS
    ]


def _imports(root: Path, source: Source) -> Iterator[tuple[int, str]]:
    """Line and dotted target of every import, wherever it stands; an imported name counts when it is a module."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(source, node)
            for alias in node.names:
                yield node.lineno, _module(root, base, alias.name)
        elif isinstance(node, ast.Call) and (target := _imported_by_call(node)):
            yield node.lineno, target


def _imported_by_call(node: ast.Call) -> str | None:
    is_import = _dotted(node.func) in ("import_module", "importlib.import_module", "__import__")
    first = node.args[0] if is_import and node.args else None
    return str(first.value) if isinstance(first, ast.Constant) else None


def _absolute(source: Source, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    folder = [PACKAGE, *source.path.split("/")[:-1]]
    return ".".join([*folder[: len(folder) - node.level + 1], *([node.module] if node.module else [])])


def _module(root: Path, base: str, name: str) -> str:
    if base.partition(".")[0] != PACKAGE:
        return f"{base}.{name}" if f"{base}.{name}" in _UNSAFE_CALLS else base
    place = root.joinpath(*base.split(".")[1:], name)
    return f"{base}.{name}" if place.is_dir() or place.with_suffix(".py").is_file() else base


def _forbidden(source: Source, target: str) -> str | None:
    """Why this file must not import `target`; None if it may."""
    here = ROOMS[source.room]
    package, *rest = target.split(".")
    if package != PACKAGE:
        allowed = here.packages | FILE_PACKAGES.get(source.path, frozenset())
        is_free = package in sys.stdlib_module_names or package in allowed
        return None if is_free else f"package {package!r} does not belong in room {source.room!r}"
    if not rest:
        return f"imports the top name {PACKAGE!r}; import from the room"
    room = "cli" if rest[-1] == "__main__" else rest[0]
    if room not in ROOMS:
        return f"imports {target}, which stands on no floor"
    there = ROOMS[room]
    is_inside = room == source.room or (there.floor == here.floor and here.floor in (GROUND, TOP))
    if is_inside or there.floor < here.floor:
        return None
    way = "sideways" if there.floor == here.floor else "up"
    return f"room {source.room!r} (floor {here.floor}) imports {way} from {room!r} (floor {there.floor})"


_Named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _public(tree: ast.Module | ast.ClassDef) -> Iterator[_Named]:
    for node in tree.body:
        if isinstance(node, _Named) and not node.name.startswith("_"):
            marks = {_dotted(mark).rpartition(".")[2] for mark in node.decorator_list}
            if not marks & {"overload", "setter", "deleter"}:
                yield node
                if isinstance(node, ast.ClassDef):
                    yield from _public(node)


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def _is_broad(kind: ast.expr) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(_dotted(each) in ("Exception", "BaseException") for each in kinds)


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None
