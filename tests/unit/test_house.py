"""The house: imports go one way, and no room is too full to be looked over."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.house import Crate, Graph, by_room, circles, python_imports, python_modules

MOST_FILES = 20
# What is not in order yet. These lists may only become shorter.
FULL_FOLDERS = {"rust_core/decide/src", "tests/e2e"}
# From where docs/architecture.md gives its paths.
PAGE_BASES = ("", "rust_core", "sidecar/weighbridge", "rust_core/decide/src")
# Modules of crates that are in a circle of imports.
IN_CIRCLES: Mapping[str, str] = {
    "admit": "accounts promises",
    "decide": "admission assigning core cutting health keyspace life metering models objectives"
    " observing session settings ticket tokenizers unseen weighed",
    "learn": "health health::record health::votes predict predict::groups predict::histogram"
    " predict::prior",
    "place": "assigner assigner::board assigner::footprint assigner::shape heat prefix"
    " prefix::cache prefix::holders prefix::table replica ring slices warmth",
    "server": "socket tls",
    "simulate": "error event policy replica scenario workload",
    "traces": "format::agentic format::azure format::burstgpt format::envoy format::mooncake"
    " format::own format::table load",
    "weigh": "check cost exact media profile read::content read::medium read::message reading",
}


def test_python_modules_and_their_packages_import_one_way(repository: Path) -> None:
    package = repository / "sidecar" / "weighbridge"
    modules = python_modules(package)
    imports = python_imports(modules)
    room = {
        name: name if path.parent == package else str(path.parent.relative_to(package))
        for name, path in modules.items()
    }
    assert len(modules) > 100
    assert circles(imports) == set()
    assert circles(by_room(imports, room)) == set()


def test_modules_of_each_crate_import_one_way(repository: Path) -> None:
    found = {}
    for source in sorted((repository / "rust_core").glob("*/src")):
        crate = Crate(source)
        imports = crate.imports()
        assert any(imports.values()) or len(crate.modules) == 1, f"{source}: nothing was read"
        among = {module for circle in circles(imports) for module in circle}
        if among:
            found[source.parent.name] = among
    known = {crate: set(modules.split()) for crate, modules in IN_CIRCLES.items()}
    added = {crate: among - known.get(crate, set()) for crate, among in found.items()}
    gone = {crate: among - found.get(crate, set()) for crate, among in known.items()}
    assert {crate: among for crate, among in added.items() if among} == {}
    assert {crate: among for crate, among in gone.items() if among} == {}, "shorten IN_CIRCLES"


def test_no_folder_holds_more_source_files_than_can_be_looked_over(repository: Path) -> None:
    counts = Counter(
        str(path.parent.relative_to(repository))
        for top in ("sidecar", "rust_core", "tests")
        for suffix in ("py", "rs")
        for path in (repository / top).rglob(f"*.{suffix}")
        if not {"target", "vendor"} & set(path.parts)
    )
    full = {folder for folder, count in counts.items() if count > MOST_FILES}
    assert full - FULL_FOLDERS == set()
    assert FULL_FOLDERS - full == set(), "shorten FULL_FOLDERS"


def test_the_architecture_page_names_files_that_exist(repository: Path) -> None:
    page = (repository / "docs" / "architecture.md").read_text(encoding="utf-8")
    without_blocks = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", without_blocks)
    named = {span for span in spans if "/" in span or span.endswith((".rs", ".py"))}
    assert len(named) > 100
    bases = [repository / base for base in PAGE_BASES]
    missing = {name for name in named if not any((base / name).exists() for base in bases)}
    assert missing == set()


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": frozenset("b"), "b": frozenset("c"), "c": frozenset()}, set()),
        (
            {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b")},
            {frozenset({"b", "c"})},
        ),
    ],
)
def test_a_circle_is_what_leads_back(graph: Graph, expected: set[frozenset[str]]) -> None:
    assert circles(graph) == expected


def test_uses_are_followed_to_the_module_that_holds_the_thing(tmp_path: Path) -> None:
    files = {
        "lib.rs": "mod a;\nmod b;\npub use b::{Deep, inner::Other};\n",
        "a.rs": "use crate::{Deep, b};\nuse std::fmt;\nfn f() { b::inner::g() }\n",
        "b/mod.rs": "mod inner;\npub use self::inner::Deep;\nfn h() { crate::a::f() }\n",
        "b/inner.rs": "// use crate::a::x;\npub struct Deep;\n"
        "#[cfg(test)]\nmod tests {\n    use crate::a;\n}\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    crate = Crate(tmp_path)
    assert crate.imports() == {
        "crate": frozenset(),
        "a": frozenset({"b", "b::inner"}),
        "b": frozenset({"a"}),
        "b::inner": frozenset(),
    }
    assert circles(by_room(crate.imports(), crate.rooms())) == {frozenset({"a", "b"})}
