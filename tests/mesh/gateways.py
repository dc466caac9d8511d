"""Envoy Gateway and istiod, each driving a real Envoy, as they do in a cluster."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.harness import until
from tests.mesh.planes import (
    GATEWAY,
    NAMESPACE,
    Api,
    Object,
    endpoint_slice,
    program,
    service,
    with_mounts,
)
from weighbridge.envoy import binary
from weighbridge.lab.processes import Child, Family
from weighbridge.lab.stack import answers

SYSTEM = "envoy-gateway-system"
ISTIO_SYSTEM = "istio-system"
# Where Envoy Gateway reads its certificates, and nowhere else: a mount of its process alone.
CERTIFICATES = Path("/certs")
# Until a listener is there: a cluster in the bootstrap waits for its endpoints first.
LISTENER_SECONDS = 90.0


class EnvoyGateway:
    """Envoy Gateway with its Kubernetes provider, and the Envoy that it would deploy."""

    url = "http://127.0.0.1:10080"
    admin = "http://127.0.0.1:19100"

    def __init__(self, api: Api, family: Family, directory: Path) -> None:
        self._api = api
        self._family = family
        self._folder = directory / "envoy-gateway"
        self._folder.mkdir()

    async def start(self) -> None:
        """Starts the control plane."""
        self._api.namespace(SYSTEM)
        environment = self._api.environment | {"ENVOY_GATEWAY_NAMESPACE": SYSTEM}
        given = [f"{name}={value}" for name, value in environment.items()]
        self._api.run(
            "env", *given, program("envoy-gateway"), "certgen", "--disable-topology-injector"
        )
        own = self._secret("envoy-gateway")
        config = self._folder / "envoy-gateway.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "gateway.envoyproxy.io/v1alpha1",
                    "kind": "EnvoyGateway",
                    "gateway": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
                    "provider": {"type": "Kubernetes"},
                }
            )
        )
        script = f'mkdir -p {CERTIFICATES} && mount --bind "$0" {CERTIFICATES}'
        command = [program("envoy-gateway"), "server", "--config-path", str(config)]
        given_certificates = with_mounts(script, str(own), *command)
        await self._family.start("envoy-gateway", given_certificates, environment)

    def _secret(self, name: str) -> Path:
        """A Secret's files."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        content = self._api.get("secret", name, namespace=SYSTEM)["data"]
        for key, value in content.items():
            (folder / key).write_bytes(base64.b64decode(value))
        return folder

    async def start_envoy(self, gateway: str) -> Child:
        """Starts the Envoy that a Gateway asks for, by the Deployment that was made for it."""
        label = f"gateway.envoyproxy.io/owning-gateway-name={gateway}"

        def deployments() -> list[Object]:
            found: list[Object] = self._api.get("deployments", "-l", label, namespace=SYSTEM)[
                "items"
            ]
            return found

        await until(deployments, LISTENER_SECONDS)
        [deployment] = deployments()
        containers = deployment["spec"]["template"]["spec"]["containers"]
        arguments = next(one for one in containers if one["name"] == "envoy")["args"]
        certificates = self._secret("envoy")
        arguments = [
            self._placed(one.replace("$(ENVOY_POD_NAME)", "envoy-1"), certificates)
            for one in arguments
        ]
        return await self._family.start(
            "gateway", [str(binary.find()), *arguments, "--use-dynamic-base-id"]
        )

    def _placed(self, argument: str, certificates: Path) -> str:
        """An argument of the container, with this machine's paths and addresses in it."""
        for name in ("xds-certificate.json", "xds-trusted-ca.json"):
            secret = self._api.get("configmaps", namespace=SYSTEM)["items"]
            for one in secret:
                if name in one.get("data", {}):
                    text = one["data"][name].replace("/certs/", f"{certificates}/")
                    (self._folder / name).write_text(text)
        return (
            argument.replace("/sds/", f"{self._folder}/")
            .replace("/certs/", f"{certificates}/")
            .replace(f"envoy-gateway.{SYSTEM}.svc.cluster.local.", "127.0.0.1")
            .replace(f"envoy-gateway.{SYSTEM}.svc.cluster.local", "127.0.0.1")
            .replace("port_value: 19000", "port_value: 19100")
            .replace("port_value: 19001", "port_value: 19101")
        )


class Istiod:
    """istiod, and Envoys that stand where its gateways' proxies would."""

    def __init__(self, api: Api, family: Family, directory: Path) -> None:
        self._api = api
        self._family = family
        self._folder = directory

    async def start(self) -> None:
        """Starts the control plane."""
        self._api.namespace(ISTIO_SYSTEM)
        # Without it clusters wait for secrets of an agent that is not there.
        mesh = {"enableAutoMtls": False, "defaultConfig": {"discoveryAddress": "127.0.0.1:15012"}}
        self._api.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "istio", "namespace": ISTIO_SYSTEM},
                "data": {"mesh": yaml.safe_dump(mesh)},
            }
        )
        environment = {
            "POD_NAMESPACE": ISTIO_SYSTEM,
            "POD_NAME": "istiod-1",
            "CLUSTER_ID": "Kubernetes",
            "ENABLE_GATEWAY_API_INFERENCE_EXTENSION": "true",
            # Filters that Istio adds to its own build of Envoy.
            "PILOT_ENABLE_ALPN_FILTER": "false",
            "PILOT_ENABLE_METADATA_EXCHANGE": "false",
        }
        command = [
            *(program("istiod"), "discovery", "--kubeconfig", str(self._api.kubeconfig)),
            # Its own port, 8080, is also Envoy Gateway's.
            *("--httpAddr", "127.0.0.1:18080"),
        ]
        await self._family.start("istiod", command, environment)
        await answers("http://127.0.0.1:18080/ready")

    async def start_envoy(self, name: str, labels: dict[str, str], number: int) -> Child:
        """Starts a gateway's Envoy: the pod `name` with these labels."""
        node = {
            "id": f"router~{GATEWAY}~{name}.{NAMESPACE}~{NAMESPACE}.svc.cluster.local",
            "cluster": f"{name}.{NAMESPACE}",
            "metadata": {
                "CLUSTER_ID": "Kubernetes",
                "NAMESPACE": NAMESPACE,
                "NAME": name,
                "LABELS": labels,
                "ISTIO_VERSION": "1.30.0",
            },
        }
        options = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/"
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
        content: dict[str, Any] = {
            "node": node,
            "admin": {"address": address("127.0.0.1", 19200 + number)},
            "dynamic_resources": {
                "lds_config": {"ads": {}, "resource_api_version": "V3"},
                "cds_config": {"ads": {}, "resource_api_version": "V3"},
                "ads_config": {
                    "api_type": "GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "istiod"}}],
                },
            },
            "static_resources": {
                "clusters": [
                    {
                        "name": "istiod",
                        "type": "STATIC",
                        "typed_extension_protocol_options": options,
                        "load_assignment": {
                            "cluster_name": "istiod",
                            "endpoints": [
                                {
                                    "lb_endpoints": [
                                        {"endpoint": {"address": address("127.0.0.1", 15010)}}
                                    ]
                                }
                            ],
                        },
                    }
                ]
            },
        }
        file = self._folder / f"{name}.json"
        file.write_text(json.dumps(content))
        return await self._family.start(name, binary.command(binary.find(), file, 1))

    def gateway_service(self, name: str, port: int, labels: dict[str, str]) -> None:
        """The Service of a gateway, its one pod and its slice."""
        thing = service(name, 80, "http")
        thing["spec"]["ports"][0]["targetPort"] = port
        thing["spec"]["selector"] = labels
        self._api.apply(thing, endpoint_slice(name, [GATEWAY], port, "http"))
        self._api.pod(f"{name}-1", GATEWAY, labels)

    async def pool_endpoints(self, pool: str, addresses: tuple[str, ...]) -> None:
        """What the controller would write of the Service that istiod makes for a pool."""

        def shadows() -> list[str]:
            names = [one["metadata"]["name"] for one in self._api.get("services")["items"]]
            return [one for one in names if re.match(rf"{pool}-ip-", one)]

        await until(shadows, LISTENER_SECONDS)
        [shadow] = shadows()
        self._api.apply(endpoint_slice(shadow, addresses, 8000, "http-0"))


def address(host: str, port: int) -> Object:
    """As Envoy writes it."""
    return {"socket_address": {"address": host, "port_value": port}}
