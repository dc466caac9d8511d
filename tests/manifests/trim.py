"""Trims published CRDs to the schemas of the kinds that our fragments use.

python -m tests.manifests.trim FOLDER CRD.yaml... writes FOLDER/KIND.VERSION.json; FOLDER is
tests/manifests/schemas, or one in it for another release of a project.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

RULES = "x-kubernetes-validations"
WANTED = {
    "aigateway.envoyproxy.io/v1beta1": ("AIGatewayRoute",),
    "gateway.envoyproxy.io/v1alpha1": (
        "BackendTrafficPolicy",
        "ClientTrafficPolicy",
        "EnvoyExtensionPolicy",
    ),
    "gateway.networking.k8s.io/v1": ("Gateway", "GatewayClass", "HTTPRoute"),
    "inference.networking.k8s.io/v1": ("InferencePool",),
    "keda.sh/v1alpha1": ("ScaledObject",),
    "networking.istio.io/v1": ("VirtualService",),
    "networking.istio.io/v1alpha3": ("EnvoyFilter",),
}


def trim(schema: Any, *, in_properties: bool = False) -> Any:
    """The schema without prose: what it lets through, what it fills in, and its rules in CEL.

    Fields that it does not name become errors, as under `kubectl --validate=strict`.
    """
    if isinstance(schema, list):
        return [trim(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if in_properties:
        return {name: trim(one) for name, one in schema.items()}
    kept = {
        key: trim(value, in_properties=key == "properties")
        for key, value in schema.items()
        if key not in {"description", "default", "format", RULES}
    }
    kept |= {key: schema[key] for key in ("default",) if key in schema}
    if "properties" in kept and not kept.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    if kept.pop("x-kubernetes-int-or-string", False):
        kept = {"type": ["integer", "string"]}
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        # As OpenAPI 3.0 has it; JSON schema has since put the bound itself there.
        if kept.get(exclusive) is True:
            kept[exclusive] = kept.pop(bound)
    kept = {key: value for key, value in kept.items() if not key.startswith("x-kubernetes-")}
    if RULES in schema:
        kept[RULES] = [
            {key: rule[key] for key in ("rule", "message") if key in rule} for rule in schema[RULES]
        ]
    return kept


def main(folder: Path, files: list[str]) -> None:
    """Writes the wanted kinds of the given CRD files."""
    folder.mkdir(exist_ok=True)
    for file in files:
        for crd in yaml.safe_load_all(Path(file).read_text(encoding="utf-8")):
            if not crd or crd.get("kind") != "CustomResourceDefinition":
                continue
            kind = crd["spec"]["names"]["kind"]
            for version in crd["spec"]["versions"]:
                api = f"{crd['spec']['group']}/{version['name']}"
                if kind not in WANTED.get(api, ()):
                    continue
                schema = trim(version["schema"]["openAPIV3Schema"])
                schema["properties"] |= {
                    "apiVersion": {"const": api},
                    "kind": {"const": kind},
                    "metadata": {"type": "object"},
                }
                text = json.dumps(schema, sort_keys=True, separators=(",", ":"))
                target = folder / f"{kind}.{version['name']}.json"
                target.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
