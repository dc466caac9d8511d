"""What is wrong with a Kubernetes object, by its published schema and without a cluster."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

SCHEMAS = Path(__file__).parent / "schemas"
KUBERNETES = "1.33"


def read(file: Path) -> list[dict[str, Any]]:
    """The objects of a file."""
    return [one for one in yaml.safe_load_all(file.read_text(encoding="utf-8")) if one]


def problems(thing: dict[str, Any]) -> list[str]:
    """Each thing that an API server would refuse; empty: nothing."""
    version = str(thing["apiVersion"]).rpartition("/")[2]
    published = SCHEMAS / f"{thing['kind']}.{version}.json"
    if published.exists():
        found = validator(published).iter_errors(thing)
        return [f"{error.json_path}: {error.message}" for error in found]
    try:
        kubernetes_validate.validate(thing, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(str(part) for part in error.path)}: {error.message}"]
    return []


@cache
def validator(schema: Path) -> jsonschema.Draft202012Validator:
    """Reads a schema once."""
    return jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8")))
