"""The configuration's reference, made of its models: each key's type, default, range, meaning."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from weighbridge.config.file import Config
from weighbridge.config.tuning import limits

KINDS = {str: "text", int: "integer", float: "number", bool: "true or false"}
HEAD = "| key | type | default | range | meaning |\n|---|---|---|---|---|"


def pages() -> str:
    """All sections, the whole file's own keys first."""
    return "\n".join(_sections(Config, ""))


def _sections(model: type[BaseModel], path: str) -> Iterator[str]:
    title = f"`{path}`" if path else "The file itself"
    yield f"### {title}\n"
    yield f"{(model.__doc__ or '').strip()}\n"
    rows = [_row(name, info) for name, info in model.model_fields.items()]
    yield "\n".join([HEAD, *rows]) + "\n"
    for name, info in model.model_fields.items():
        for inner, suffix in _models(info.annotation):
            yield from _sections(inner, f"{path}.{name}{suffix}".removeprefix("."))


def _row(name: str, info: FieldInfo) -> str:
    meaning = (info.description or _first_line(info)).replace("|", "\\|")
    cells = [f"`{name}`", _kind(info.annotation), _default(info), _range(info), meaning]
    return f"| {' | '.join(cells)} |"


def _first_line(info: FieldInfo) -> str:
    inner = next(iter(_models(info.annotation)), None)
    return "" if inner is None else (inner[0].__doc__ or "").strip().splitlines()[0]


def _range(info: FieldInfo) -> str:
    return "" if info.annotation is bool else limits(info)


def _models(annotation: Any, suffix: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """The sections within a type, and how their keys go on."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, suffix
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _models(arguments[0], suffix)
    elif origin in {Union, types.UnionType}:
        for one in arguments:
            yield from _models(one, suffix)
    elif origin in {tuple, list}:
        yield from _models(arguments[0], suffix + "[]")
    elif origin is dict:
        yield from _models(arguments[1], suffix + ".NAME")


def _kind(annotation: Any) -> str:
    """A type, for people."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    kind = KINDS.get(annotation, "section")
    if origin is Annotated:
        kind = _kind(arguments[0])
    elif origin is Literal:
        kind = " or ".join(f"`{one}`" for one in arguments)
    elif origin in {Union, types.UnionType}:
        kind = " or ".join(_kind(one) for one in arguments if one is not type(None))
    elif origin in {tuple, list}:
        kind = f"list of {_kind(arguments[0])}"
    elif origin is dict:
        kind = f"{_kind(arguments[1])} by name"
    return kind


def _default(info: FieldInfo) -> str:
    """A default; a section's own are in its table."""
    value = info.get_default(call_default_factory=True, validated_data={})
    shown = f"`{value}`" if value != "" else "empty"
    if value is PydanticUndefined:
        shown = "needed"
    elif isinstance(value, BaseModel) or value is None:
        shown = ""
    elif isinstance(value, bool):
        shown = str(value).lower()
    elif isinstance(value, int | float):
        shown = f"{value:,}"
    elif isinstance(value, dict | tuple | list):
        shown = ", ".join(f"`{one}`" for one in value) or "none"
    return shown
