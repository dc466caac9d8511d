"""What is wrong with a file's content: every mistake, each with its key's path, in plain words."""

import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

# A list of thousands of replicas may be wrong in each of them.
MOST_PROBLEMS = 20
# Characters up to which likeness is looked for.
LONGEST_NAME = 64

# A value's own check may say first which key it means.
KEY_FIRST = re.compile(r"(?P<key>[a-z_]+(?:\.[a-z_]+|\[\d+\])*): (?P<what>.*)", re.DOTALL)
PLAIN_KEY = re.compile(r"[\w-]+")
PYDANTIC_SUBJECT = re.compile(r"^(?:Input|String|List|Tuple|Dictionary|Value|Number) should ")


def problems(
    error: ValidationError, model: type[BaseModel], content: object = None
) -> tuple[str, ...]:
    """Each mistake as `key.path[index]: what is wrong`; beyond the first few, their number."""
    found = [_problem(one, model, content) for one in error.errors(include_url=False)]
    return bounded(found)


def bounded(found: Sequence[str]) -> tuple[str, ...]:
    """The first few, and how many more there are."""
    more = len(found) - MOST_PROBLEMS
    return (*found[:MOST_PROBLEMS], f"and {more:,} more mistakes") if more > 0 else tuple(found)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'this'?`, where one of the known names is much like it."""
    if len(name) > LONGEST_NAME:
        return ""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def key_path(location: Sequence[int | str]) -> str:
    """`("replicas", 2, "endpoint")` as `replicas[2].endpoint`."""
    path = ""
    for part in location:
        if isinstance(part, str) and PLAIN_KEY.fullmatch(part):
            path += f".{part}" if path else part
        else:
            path += f"[{part!r}]"
    return path


def _problem(one: ErrorDetails, model: type[BaseModel], content: object) -> str:
    location = one["loc"]
    path = key_path(_keys(location, content, one["type"] == "missing"))
    context = one.get("ctx", {})
    match one["type"]:
        case "extra_forbidden":
            sections = _models_at(model, location[:-1])
            siblings = {name for section in sections for name in section.model_fields}
            text = "unknown key" + did_you_mean(str(location[-1]), siblings)
        case "missing":
            text = "must be given"
        case "union_tag_not_found":
            path, text = _below(path, context["discriminator"].strip("'")), "must be given"
        case "union_tag_invalid":
            path = _below(path, context["discriminator"].strip("'"))
            text = _none_of(str(context["tag"]), context["expected_tags"])
        case "literal_error":
            text = _none_of(one["input"], context["expected"])
        case "value_error":
            text = one["msg"].removeprefix("Value error, ")
            if said := KEY_FIRST.fullmatch(text):
                path, text = _below(path, said["key"]), said["what"]
        case _:
            text = PYDANTIC_SUBJECT.sub("must ", one["msg"])
    return f"{path}: {text}" if path else text


def _none_of(value: object, expected: str) -> str:
    """Says that a value is none of the quoted ones in `expected`."""
    text = f"must be {expected}"
    if isinstance(value, str):
        text += did_you_mean(value, re.findall(r"'([^']*)'", expected))
    return text


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _keys(location: Sequence[int | str], content: object, is_missing: bool) -> Sequence[int | str]:
    """A location without what is no key of the file, such as the name of a union's member."""
    if content is None:
        return location
    keys: list[int | str] = []
    at: Any = content
    for part in location:
        if isinstance(at, list):
            is_there = isinstance(part, int) and part < len(at)
        else:
            is_there = isinstance(at, Mapping) and part in at
        if is_there:
            at = at[part]
            keys.append(part)
    return [*keys, location[-1]] if is_missing else keys


def _models_at(model: type[BaseModel], location: Sequence[int | str]) -> list[type[BaseModel]]:
    """The sections that may stand at a location."""
    kinds: list[Any] = [model]
    for part in location:
        kinds = [inner for kind in kinds for inner in _step(kind, part)] or kinds
    return [kind for kind in kinds if _is_section(kind)]


def _step(kind: Any, part: int | str) -> Iterator[Any]:
    """Kinds of what stands at one part of a location within a kind."""
    if _is_section(kind):
        if part in kind.model_fields:
            yield from _members(kind.model_fields[part].annotation)
        elif any(part in get_args(field.annotation) for field in kind.model_fields.values()):
            # The name of a union's member, by which pydantic tells these apart.
            yield kind
    elif get_origin(kind) in {tuple, list} and isinstance(part, int):
        yield from _members(get_args(kind)[0])
    elif get_origin(kind) is dict:
        yield from _members(get_args(kind)[1])


def _members(annotation: Any) -> Iterator[Any]:
    """A type, or those that it is a union of."""
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in {Union, types.UnionType}:
        for one in get_args(annotation):
            yield from _members(one)
    elif get_origin(annotation) is not Literal:
        yield annotation


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
