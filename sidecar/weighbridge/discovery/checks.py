"""Checks of what a configuration says of its sources, before any is asked."""

from collections.abc import Collection
from pathlib import Path

from weighbridge.config.core import no_profile
from weighbridge.config.discovery import FileSource, Template
from weighbridge.config.file import Config
from weighbridge.config.problems import bounded
from weighbridge.discovery.file import read
from weighbridge.discovery.source import SourceError
from weighbridge.errors import ConfigError


def check_sources(config: Config, profiles: Collection[str], source: Path) -> None:
    """ConfigError where sources of replicas name profiles that there are not."""
    wrong = [
        f"{source}: discovery.sources[{index}].profile: {no_profile(one.profile, profiles)}"
        for index, one in enumerate(config.discovery.sources)
        if isinstance(one, Template) and one.profile not in profiles
    ]
    if wrong:
        raise ConfigError(*bounded(wrong))


def check_lists(config: Config, profiles: Collection[str], source: Path) -> None:
    """ConfigError where a list of replicas, as it is now, could not be used."""
    wrong: list[str] = []
    for index, listed in enumerate(config.discovery.sources):
        path = source.parent / listed.path if isinstance(listed, FileSource) else None
        # It may be written later.
        if path is None or not path.exists():
            continue
        key = f"{source}: discovery.sources[{index}]"
        try:
            found = read(path)
        except SourceError as error:
            wrong.append(f"{key}: {error}")
            continue
        wrong += [
            f"{key}: {path}: replicas[{place}].profile: {no_profile(one.replica.profile, profiles)}"
            for place, one in enumerate(found)
            if one.replica.profile not in profiles
        ]
    if wrong:
        raise ConfigError(*bounded(wrong))
