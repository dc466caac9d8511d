"""Checks of what a configuration says of its sources, before any is asked."""

from collections.abc import Collection
from pathlib import Path

from weighbridge.config.discovery import (
    FileSource,
    Template,
)
from weighbridge.config.file import Config
from weighbridge.discovery.file import read
from weighbridge.discovery.source import SourceError
from weighbridge.errors import ConfigError


def check_sources(config: Config, profiles: Collection[str], source: Path) -> None:
    """ConfigError where a source of replicas names a profile that there is not."""
    for index, one in enumerate(config.discovery.sources):
        named = one.profile if isinstance(one, Template) else None
        if named is not None and named not in profiles:
            raise ConfigError(
                f"{source}: discovery.sources[{index}].profile: no profile is called '{named}'"
            )


def check_lists(config: Config, profiles: Collection[str], source: Path) -> None:
    """ConfigError where a list of replicas, as it is now, could not be used."""
    for index, listed in enumerate(config.discovery.sources):
        path = source.parent / listed.path if isinstance(listed, FileSource) else None
        # It may be written later.
        if path is None or not path.exists():
            continue
        try:
            found = read(path)
        except SourceError as error:
            raise ConfigError(f"{source}: discovery.sources[{index}]: {error}") from None
        for place, replica in enumerate(one.replica for one in found):
            if replica.profile not in profiles:
                raise ConfigError(
                    f"{source}: discovery.sources[{index}]: {path}: replicas[{place}].profile: "
                    f"no profile is called '{replica.profile}'"
                )
