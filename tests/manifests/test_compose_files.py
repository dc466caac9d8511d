"""What docker-compose.yml mounts is there, and the sidecar reads its own."""

from pathlib import Path

import yaml

from weighbridge.config.reading import load

ROOT = Path(__file__).parents[2]


def test_the_sidecars_configuration_is_read() -> None:
    config = load(ROOT / "envoy" / "compose" / "weighbridge.yaml")
    assert config.listen.address == "0.0.0.0:9002"


def test_every_file_that_is_mounted_is_there() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for service in services.values():
        for volume in service.get("volumes", []):
            assert (ROOT / volume.split(":")[0]).exists(), volume
