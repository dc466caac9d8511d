"""A real API server, and processes that see it as pods of a cluster do. No cluster is around them.

`tests/mesh/build.sh` has built the programs. All addresses are of a network namespace of the tests'
own, which `make test-mesh` makes: nothing outside is reached.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.harness import until
from weighbridge.lab.processes import Child, Family

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
PLANES = Path(os.environ.get("PLANES", ROOT / ".mesh"))
CRDS = PLANES / "crds"
API_SERVER = "10.244.0.1"
REPLICAS = tuple(f"10.244.0.{n}" for n in range(11, 15))
SIDECARS = ("10.244.0.20", "10.244.0.22")
GATEWAY = "10.244.0.21"
ADDRESSES = (API_SERVER, *REPLICAS, *SIDECARS, GATEWAY)
NAMESPACE = "inference"
START_SECONDS = 120.0
# Where a pod finds its account.
ACCOUNT_FOLDER = "/run/secrets/kubernetes.io/serviceaccount"


def program(name: str) -> str:
    """A program that was built."""
    return str(PLANES / "bin" / name)


def missing(*names: str) -> str:
    """What these tests need and do not have; empty where they can run."""
    unbuilt = [name for name in names if not os.access(program(name), os.X_OK)]
    if unbuilt:
        return f"not built: {', '.join(unbuilt)}"
    for address in ADDRESSES:
        with socket.socket() as probe:
            try:
                probe.bind((address, 0))
            except OSError:
                return f"this machine has no address {address}"
    return ""


class Refused(Exception):  # noqa: N818
    """What the API server says to what it does not take."""


class Api:
    """etcd, kube-apiserver, and kubectl as an administrator."""

    def __init__(self, directory: Path, family: Family) -> None:
        self.directory = directory
        self.url = f"https://{API_SERVER}:6443"
        self.kubeconfig = directory / "kubeconfig"
        self._family = family

    async def start(self) -> None:
        """Starts both and waits for them."""
        self._write_certificates()
        await self._family.start(
            "etcd",
            [
                program("etcd"),
                *("--data-dir", str(self.directory / "etcd"), "--log-level", "error"),
                *("--listen-client-urls", "http://127.0.0.1:2379", "--unsafe-no-fsync"),
                *("--advertise-client-urls", "http://127.0.0.1:2379"),
                *("--listen-peer-urls", "http://127.0.0.1:2380"),
            ],
        )
        await self.start_server()

    async def start_server(self) -> Child:
        """Starts the API server alone, once more where it was killed."""
        folder = self.directory
        child = await self._family.start(
            "kube-apiserver",
            [
                program("kube-apiserver"),
                "--etcd-servers=http://127.0.0.1:2379",
                f"--bind-address={API_SERVER}",
                f"--advertise-address={API_SERVER}",
                f"--tls-cert-file={folder}/server.crt",
                f"--tls-private-key-file={folder}/server.key",
                f"--client-ca-file={folder}/ca.crt",
                "--authorization-mode=RBAC",
                f"--service-account-key-file={folder}/accounts.key",
                f"--service-account-signing-key-file={folder}/accounts.key",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--api-audiences=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.96.0.0/16",
                # No controller makes accounts and endpoints here.
                "--disable-admission-plugins=ServiceAccount",
                "--endpoint-reconciler-type=none",
            ],
        )
        await until(lambda: self.asked("get", "--raw", "/readyz") == "ok", START_SECONDS)
        return child

    def _write_certificates(self) -> None:
        authority = trustme.CA()
        server = authority.issue_cert(API_SERVER, "kubernetes.default.svc")
        admin = authority.issue_cert(
            "admin.test", organization_name="system:masters", common_name="admin"
        )
        folder = self.directory
        authority.cert_pem.write_to_path(folder / "ca.crt")
        server.private_key_pem.write_to_path(folder / "server.key")
        server.cert_chain_pems[0].write_to_path(folder / "server.crt")
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        (folder / "accounts.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )

        def text(blob: bytes) -> str:
            return base64.b64encode(blob).decode()

        cluster = {
            "server": self.url,
            "certificate-authority-data": text(authority.cert_pem.bytes()),
        }
        user = {
            "client-certificate-data": text(admin.cert_chain_pems[0].bytes()),
            "client-key-data": text(admin.private_key_pem.bytes()),
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "mesh",
            "clusters": [{"name": "mesh", "cluster": cluster}],
            "users": [{"name": "admin", "user": user}],
            "contexts": [{"name": "mesh", "context": {"cluster": "mesh", "user": "admin"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(content))

    @property
    def environment(self) -> dict[str, str]:
        """For a process that acts as an administrator."""
        return {"KUBECONFIG": str(self.kubeconfig)}

    def run(self, *command: str, given: str = "") -> str:
        """What a command prints; Refused with its words where it fails."""
        result = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, **self.environment},
        )
        if result.returncode != 0:
            raise Refused(result.stderr.strip() or result.stdout.strip())
        return result.stdout

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """What kubectl prints."""
        return self.run(program("kubectl"), *arguments, given=given)

    def asked(self, *arguments: str) -> str:
        """The same; empty where the server does not answer or refuses."""
        try:
            return self.kubectl(*arguments)
        except Refused:
            return ""

    def apply(self, *things: Object) -> None:
        """Makes objects, or changes them."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=dump(things))

    def apply_file(self, file: Path, *arguments: str) -> None:
        """The same with a file, as it is."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(file), *arguments)

    def get(self, *arguments: str, namespace: str = NAMESPACE) -> Object:
        """An object or a list of them."""
        found: Object = json.loads(self.kubectl("-n", namespace, "get", *arguments, "-o", "json"))
        return found

    def namespace(self, name: str) -> None:
        """Makes a namespace."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def pod(self, name: str, address: str, labels: dict[str, str], ready: bool = True) -> None:
        """Makes a pod that runs, as far as the server knows."""
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
                "spec": {
                    "nodeName": "node-1",
                    "containers": [{"name": "main", "image": "none"}],
                },
            }
        )
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        patch = json.dumps({"status": status | {"conditions": conditions}})
        arguments = ("pod", name, "--subresource=status", "--type=merge", "-p", patch)
        self.kubectl("-n", NAMESPACE, "patch", *arguments)

    def token(self, account: str) -> str:
        """A token of a service account."""
        return self.kubectl("-n", NAMESPACE, "create", "token", account, "--duration=1h").strip()


def service(name: str, port: int, port_name: str, **labels: str) -> Object:
    """A Service of which the tests write the endpoints themselves."""
    ports = [{"name": port_name, "port": port, "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {"ports": ports},
    }


def endpoint_slice(
    service_name: str,
    addresses: Iterable[str],
    port: int,
    port_name: str,
    name: str = "",
    **conditions: bool,
) -> Object:
    """An EndpointSlice as the controller writes it."""
    ready = {"ready": True, "serving": True, "terminating": False} | conditions
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name or f"{service_name}-1",
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service_name},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [one], "conditions": ready} for one in addresses],
        "ports": [{"name": port_name, "port": port, "protocol": "TCP"}],
    }


def dump(things: Iterable[Object]) -> str:
    """Objects as one text."""
    return yaml.safe_dump_all(things)


def with_mounts(script: str, *arguments: str) -> list[str]:
    """A command that runs with mounts of its own: what the script leaves of the arguments."""
    found = shutil.which("unshare")
    assert found is not None, "unshare is missing (util-linux)"
    return [found, "--mount", "bash", "-c", f'{script} && exec "$@"', *arguments]


class Pod:
    """What a process of a pod sees: its account's token, and where the API server is."""

    def __init__(self, api: Api, account: str, folder: Path) -> None:
        self._api = api
        self._account = account
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ca.crt").write_bytes((api.directory / "ca.crt").read_bytes())
        (folder / "namespace").write_text(NAMESPACE)
        self.renew()

    def renew(self) -> None:
        """Another token takes the place of the one before."""
        (self.folder / "token").write_text(self._api.token(self._account))

    def command(self, command: Sequence[str]) -> list[str]:
        """The command, run in the pod's view."""
        script = 'mount -t tmpfs none /run && mkdir -p $(dirname $0) && ln -s "$1" $0 && shift'
        return with_mounts(script, ACCOUNT_FOLDER, str(self.folder), *command)

    @property
    def environment(self) -> dict[str, str]:
        """What the kubelet sets."""
        return {"KUBERNETES_SERVICE_HOST": API_SERVER, "KUBERNETES_SERVICE_PORT": "6443"}
