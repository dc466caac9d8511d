"""Who imports whom, among our own modules, in Python and within a Rust crate."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Graph = Mapping[str, frozenset[str]]

COMMENT = re.compile(r"//[^\n]*")
# Modules of tests stand at the end of a file.
TESTS = re.compile(r"#\[cfg\(test\)\]\s*mod \w+ \{.*\Z", re.DOTALL)
USE = re.compile(r"^[ \t]*(pub(?:\([^)]*\))? )?use ([^;]+);", re.MULTILINE)
PATH = re.compile(r"\b(?:crate|super|self)(?:::\w+)+")


def circles(graph: Graph) -> set[frozenset[str]]:
    """Groups of nodes each of which can be reached from each other, of two or more."""
    reached = {node: _reachable(graph, node) for node in graph}
    found = (
        frozenset(other for other in reached[node] if node in reached.get(other, ()))
        for node in graph
    )
    return {circle for circle in found if len(circle) > 1}


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for other in graph.get(waiting.pop(), ()):
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return seen


def by_room(graph: Graph, room: Mapping[str, str]) -> Graph:
    """The same between the rooms that modules lie in."""
    rooms: dict[str, set[str]] = {}
    for module, others in graph.items():
        found = rooms.setdefault(room[module], set())
        found.update(room[other] for other in others if room[other] != room[module])
    return {name: frozenset(others) for name, others in rooms.items()}


def python_modules(package: Path) -> dict[str, Path]:
    """The files of a package, by their dotted names."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def python_imports(modules: Mapping[str, Path]) -> Graph:
    """What each module imports, wherever in its text, of these modules."""
    return {name: frozenset(_imported(path, modules) - {name}) for name, path in modules.items()}


def _imported(path: Path, modules: Mapping[str, Path]) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in modules else node.module)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            names.update(str(one.value) for one in node.args if isinstance(one, ast.Constant))
    return {name for name in names if name in modules}


class Crate:
    """A crate's modules, by paths such as `respond::prometheus`; its root is `crate`."""

    def __init__(self, source: Path) -> None:
        self.modules = {_module_of(path.relative_to(source)): path for path in _files(source)}
        texts = {
            module: COMMENT.sub("", TESTS.sub("", path.read_text(encoding="utf-8")))
            for module, path in self.modules.items()
        }
        self._uses = {module: list(_uses(text)) for module, text in texts.items()}
        self._inline = {
            module: [tuple(path.split("::")) for path in PATH.findall(USE.sub("", text))]
            for module, text in texts.items()
        }
        # What a module shows under a name of its own, and the path that this stands for.
        self._shown = {
            (module, path[-1]): path
            for module, uses in self._uses.items()
            for is_shown, path in uses
            if is_shown
        }

    def imports(self) -> Graph:
        """What each module uses. What it only shows to others is not its own need."""
        found = {}
        for module in self.modules:
            paths = [path for is_shown, path in self._uses[module] if not is_shown]
            targets = {self._target(module, path) for path in [*paths, *self._inline[module]]}
            found[module] = frozenset(one for one in targets if one not in {None, module})
        return {name: frozenset(str(one) for one in others) for name, others in found.items()}

    def rooms(self) -> dict[str, str]:
        """The room of each module: its first step from the crate's root."""
        return {module: module.split("::")[0] for module in self.modules}

    def _target(self, module: str, path: tuple[str, ...], depth: int = 0) -> str | None:
        """The module in which the thing that a path names stands; None of another crate's."""
        here = self._absolute(module, path)
        if here is None or depth > len(self.modules):
            return None
        at, rest = "crate", list(here)
        while rest and (inner := _below(at, rest[0])) in self.modules:
            at = inner
            del rest[0]
        if rest and (shown := self._shown.get((at, rest[0]))) is not None:
            found = self._target(at, shown, depth + 1)
            return at if found is None else found
        return at

    def _absolute(self, module: str, path: tuple[str, ...]) -> tuple[str, ...] | None:
        at = [] if module == "crate" else module.split("::")
        first, *rest = path
        if first == "crate":
            return tuple(rest)
        if first == "self":
            return (*at, *rest)
        if first == "super":
            while rest and rest[0] == "super":
                at, rest = at[:-1], rest[1:]
            return (*at[:-1], *rest)
        return (*at, *path) if _below(module, first) in self.modules else None


def _below(module: str, name: str) -> str:
    return name if module == "crate" else f"{module}::{name}"


def _files(source: Path) -> Iterator[Path]:
    return (path for path in sorted(source.rglob("*.rs")) if not path.stem.endswith("tests"))


def _module_of(path: Path) -> str:
    parts = path.with_suffix("").parts
    if parts[-1] in {"mod", "lib", "main"}:
        parts = parts[:-1]
    return "::".join(parts) or "crate"


def _uses(text: str) -> Iterator[tuple[bool, tuple[str, ...]]]:
    """Each thing that a text's `use` names, and whether it is shown to others."""
    for shown, tree in USE.findall(text):
        for path in _branches(re.sub(r"\s+", " ", tree).strip()):
            yield bool(shown), path


def _branches(tree: str) -> Iterator[tuple[str, ...]]:
    head, brace, inner = tree.partition("{")
    if not brace:
        name = tree.split(" as ", maxsplit=1)[0].removesuffix("::self").removesuffix("::*").strip()
        if name:
            yield tuple(name.split("::"))
        return
    for branch in _split(inner.removesuffix("}")):
        yield from _branches(head if branch == "self" else head + branch)


def _split(inner: str) -> Iterable[str]:
    """The parts between those commas that stand in no further braces."""
    parts, depth = [""], 0
    for letter in inner:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]
