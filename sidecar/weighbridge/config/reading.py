"""Reads YAML and checks it. Every error names the file and the key."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from weighbridge.config.file import Config
from weighbridge.config.problems import problems
from weighbridge.config.schema import Section
from weighbridge.errors import ConfigError

S = TypeVar("S", bound=Section)

# The reader in C where PyYAML has it: some ten times as fast, for lists of thousands of replicas.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """YAML in which a key that is given twice is an error, not a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        content: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return content


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping. ConfigError names the file, and the line where there is one."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: {error.problem or error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if content is None or content == {}:
        raise ConfigError(f"{path}: holds nothing")
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold keys and values, not a {type(content).__name__}")
    return content


def load(path: Path) -> Config:
    """Reads and checks the configuration file. ConfigError tells all that is wrong."""
    return read(path, Config)


def read(path: Path, section: type[S]) -> S:
    """Reads a YAML file that holds one section. ConfigError tells all that is wrong."""
    content = read_yaml(path)
    try:
        return section.model_validate(content)
    except ValidationError as error:
        found = problems(error, section, content)
        raise ConfigError(*(f"{path}: {problem}" for problem in found)) from None
