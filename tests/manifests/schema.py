"""What is wrong with a Kubernetes object, by its published schema and without a cluster."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cel
import jsonschema
import kubernetes_validate
import yaml

from tests.manifests.trim import RULES

SCHEMAS = Path(__file__).parent / "schemas"
KUBERNETES = "1.33"
# Names of fields that CEL has other uses for, which Kubernetes writes `__so__` in rules.
RESERVED = frozenset(
    "as break const continue else false for function if import in let loop null package namespace "
    "return true var void while".split()
)


def read(file: Path) -> list[dict[str, Any]]:
    """The objects of a file."""
    return [one for one in yaml.safe_load_all(file.read_text(encoding="utf-8")) if one]


def problems(thing: dict[str, Any], release: str = "") -> list[str]:
    """Each thing that an API server would refuse; empty: nothing.

    `release`: the folder of the schemas of another release of its project.
    """
    version = str(thing["apiVersion"]).rpartition("/")[2]
    published = SCHEMAS / release / f"{thing['kind']}.{version}.json"
    if not published.exists():
        published = SCHEMAS / published.name
    if published.exists():
        schema = content(published)
        errors = jsonschema.Draft202012Validator(schema).iter_errors(thing)
        found = [f"{error.json_path}: {error.message}" for error in errors]
        # An API server asks its rules only of what fits the schema.
        return found or list(broken(schema, filled(schema, thing), "$"))
    try:
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(str(part) for part in error.path)}: {error.message}"]
    return []


@cache
def content(schema: Path) -> dict[str, Any]:
    """Reads a schema once."""
    found: dict[str, Any] = json.loads(schema.read_text(encoding="utf-8"))
    return found


def parts(schema: dict[str, Any], value: Any) -> Iterator[tuple[str | int, dict[str, Any]]]:
    """The keys of a value that the schema describes, and their own schemas."""
    if isinstance(value, dict):
        named = schema.get("properties", {})
        other = schema.get("additionalProperties")
        for key in value:
            of = named.get(key, other)
            if isinstance(of, dict):
                yield key, of
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index in range(len(value)):
            yield index, schema["items"]


def filled(schema: dict[str, Any], value: Any) -> Any:
    """The value with the defaults of what it leaves out, as an API server stores it."""
    if isinstance(value, dict):
        given = schema.get("properties", {})
        value = {
            key: of["default"] for key, of in given.items() if "default" in of and key not in value
        } | value
    elif isinstance(value, list):
        value = list(value)
    for key, of in list(parts(schema, value)):
        value[key] = filled(of, value[key])
    return value


def broken(schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    """The rules that a value breaks, or that cannot be asked."""
    for rule in schema.get(RULES, []):
        # Of a new object there is no old one.
        if "oldSelf" in rule["rule"]:
            continue
        context = cel.Context({"self": named(value)})
        context.add_function("upperAscii", str.upper)
        context.add_function("split", str.split)
        says = f"{path}: {rule.get('message', rule['rule'])}"
        try:
            holds = cel.evaluate(rule["rule"], context)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            yield f"{says} ({error!r})"
        else:
            if holds is not True:
                yield says
    for key, of in parts(schema, value):
        where = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}"
        yield from broken(of, value[key], where)


def named(value: Any) -> Any:
    """A value with its fields named as rules name them."""
    if isinstance(value, dict):
        return {f"__{key}__" if key in RESERVED else key: named(one) for key, one in value.items()}
    if isinstance(value, list):
        return [named(one) for one in value]
    return value
