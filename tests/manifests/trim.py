"""Trims published CRDs to the schemas of the kinds that our fragments use.

python -m tests.manifests.trim CRD.yaml... writes tests/manifests/schemas/KIND.VERSION.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

SCHEMAS = Path(__file__).parent / "schemas"
WANTED = {
    "aigateway.envoyproxy.io/v1beta1": ("AIGatewayRoute",),
    "gateway.envoyproxy.io/v1alpha1": (
        "BackendTrafficPolicy",
        "ClientTrafficPolicy",
        "EnvoyExtensionPolicy",
    ),
    "gateway.networking.k8s.io/v1": ("Gateway", "HTTPRoute"),
    "inference.networking.k8s.io/v1": ("InferencePool",),
    "keda.sh/v1alpha1": ("ScaledObject",),
    "networking.istio.io/v1": ("VirtualService",),
    "networking.istio.io/v1alpha3": ("EnvoyFilter",),
}


def trim(schema: Any, *, in_properties: bool = False) -> Any:
    """The schema without prose and rules that only an API server evaluates.

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
        if key not in {"description", "default", "x-kubernetes-validations", "format"}
    }
    if "properties" in kept and not kept.get("x-kubernetes-preserve-unknown-fields"):
        kept.setdefault("additionalProperties", False)
    if kept.pop("x-kubernetes-int-or-string", False):
        kept = {"type": ["integer", "string"]}
    return {key: value for key, value in kept.items() if not key.startswith("x-kubernetes-")}


def main(files: list[str]) -> None:
    """Writes the wanted kinds of the given CRD files."""
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
                target = SCHEMAS / f"{kind}.{version['name']}.json"
                target.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
