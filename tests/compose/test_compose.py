"""`docker compose up` on a real engine: healthy, traffic, a replica killed, more of them, down.

The tests follow one another on one stack, as an afternoon on a laptop would. `make test-compose`.
"""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from weighbridge.lab.ports import find_free_run

ROOT = Path(__file__).parents[2]
CANNOT = 75
PROJECT = "weighbridge-test"
BUILD_SECONDS = 1500
MODEL = "llama-3.1-8b"
OFTEN_ENOUGH = 60


@dataclass(frozen=True, slots=True)
class Compose:
    """The stack, by the commands that users type."""

    environment: dict[str, str]
    port: int
    metrics_port: int
    envoy_admin_port: int

    def run(self, *arguments: str, seconds: float = 300) -> str:
        """`docker compose ARGUMENTS`; what it prints."""
        return docker("compose", *arguments, environment=self.environment, seconds=seconds)

    def containers(self, service: str = "") -> list[dict[str, str]]:
        """Those that run, of one service or of all."""
        services = [service] if service else []
        lines = self.run("ps", "--format", "json", *services).splitlines()
        return [json.loads(line) for line in lines]

    def addresses(self, service: str) -> set[str]:
        """`ip:8000` of each container of the replicas' service."""
        names = [one["Name"] for one in self.containers(service)]
        network = "{{range .NetworkSettings.Networks}}{{.IPAddress}}:8000{{end}}"
        return set(docker("inspect", "--format", network, *names).split())

    def ask(self, session: str, words: str = "hello", tokens: int = 8) -> str:
        """One chat through Envoy; the replica that served it."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            data=json.dumps(
                {
                    "model": MODEL,
                    "max_tokens": tokens,
                    "messages": [{"role": "user", "content": words}],
                }
            ).encode(),
            headers={"content-type": "application/json", "x-session-id": session},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310
            json.load(reply)
            return str(reply.headers["x-served-by"])

    def tune(self, key: str, value: str) -> None:
        """Sets a runtime key as an operator does."""
        url = f"http://127.0.0.1:{self.envoy_admin_port}/runtime_modify?{key}={value}"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10):
            pass

    def metrics(self) -> dict[str, float]:
        """The sidecar's metrics: each series' figure."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as page:
            lines = page.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {series: float(figure) for series, figure in pairs}


def docker(*arguments: str, environment: dict[str, str] | None = None, seconds: float = 60) -> str:
    result = subprocess.run(
        ["docker", *arguments],  # noqa: S607 (the one on PATH, as users have it)
        cwd=ROOT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert result.returncode == 0, f"docker {' '.join(arguments)}: {result.stdout}{result.stderr}"
    return result.stdout


def eventually(holds: Callable[[], bool], seconds: float = OFTEN_ENOUGH) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so within {seconds:g} s: {holds}"
        time.sleep(0.5)


@pytest.fixture(scope="module", autouse=True)
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Docker engine; one that was started for this is stopped at the end."""
    directory = tmp_path_factory.mktemp("engine")
    script = Path(__file__).with_name("engine.sh")
    pid = directory / "engine.pid"
    try:
        result = subprocess.run(
            [script, directory], capture_output=True, text=True, timeout=600, check=False
        )
        if result.returncode == CANNOT:
            pytest.skip(f"NOT TESTED: {result.stderr.strip()}")
        assert result.returncode == 0, result.stdout + result.stderr
        yield
    finally:
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)


@pytest.fixture(scope="module")
def compose(engine: None) -> Iterator[Compose]:
    """The stack of docker-compose.yml, built and up. Grafana and Prometheus are left out."""
    port = find_free_run(3)
    made = Compose(
        {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_PROFILES": "",
            "WEIGHBRIDGE_PORT": str(port),
            "WEIGHBRIDGE_METRICS_PORT": str(port + 1),
            "WEIGHBRIDGE_ENVOY_ADMIN_PORT": str(port + 2),
            # What is tested is not how fast it is.
            "WEIGHBRIDGE_OPT_LEVEL": "0",
            "WEIGHBRIDGE_LTO": "off",
            "WEIGHBRIDGE_CODEGEN_UNITS": "16",
            "WEIGHBRIDGE_SPEED": "10",
        },
        port,
        port + 1,
        port + 2,
    )
    started = time.monotonic()
    made.run("build", seconds=BUILD_SECONDS)
    built = time.monotonic()
    try:
        try:
            made.run("up", "--detach", "--no-build", "--wait", "--wait-timeout", "180")
        except AssertionError:
            print(made.run("ps", "--all"), made.run("logs", "--tail", "20"))
            raise
        print(f"\nbuilt in {built - started:.0f} s, up in {time.monotonic() - built:.0f} s")
        yield made
    finally:
        made.run("down", "--volumes", "--timeout", "5")


def test_up_means_that_all_are_healthy(compose: Compose) -> None:
    running = Counter(one["Service"] for one in compose.containers())
    assert running == {"envoy": 1, "weighbridge": 1, "replica": 6}
    assert {one["Health"] for one in compose.containers()} == {"healthy"}


def test_nothing_runs_as_root_or_can_write_to_its_root(compose: Compose) -> None:
    for service in ("envoy", "weighbridge", "replica"):
        assert compose.run("exec", "-T", service, "id", "-u").strip() == "65532"
        name = compose.containers(service)[0]["Name"]
        assert docker("inspect", "--format", "{{.HostConfig.ReadonlyRootfs}}", name) == "true\n"


def test_traffic_goes_where_the_sidecar_says_and_sessions_stay(compose: Compose) -> None:
    replicas = compose.addresses("replica")
    homes = {f"s{number}": compose.ask(f"s{number}") for number in range(24)}
    assert set(homes.values()) <= replicas
    assert len(set(homes.values())) > 1
    later = {session: compose.ask(session, "hello again") for session in homes}
    assert later == homes
    metrics = compose.metrics()
    decided = sum(
        figure
        for series, figure in metrics.items()
        if series.startswith("weighbridge_decisions_total")
    )
    assert decided >= 48


def test_a_key_set_through_envoys_admin_port_is_followed(compose: Compose) -> None:
    def replicas_of_one_session() -> int:
        return len({compose.ask("tuned") for _ in range(12)})

    assert replicas_of_one_session() == 1
    compose.tune("weighbridge.observe_only", "true")
    eventually(lambda: replicas_of_one_session() > 1)
    compose.tune("weighbridge.observe_only", "")
    eventually(lambda: replicas_of_one_session() == 1)


@dataclass(slots=True)
class Clients:
    """Sessions that ask without a pause, until they are told to stop."""

    compose: Compose
    served: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Clients":
        self._threads = [
            threading.Thread(target=self._go_on, args=(number,)) for number in range(8)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _go_on(self, number: int) -> None:
        turn = 0
        while not self._stop.is_set():
            turn += 1
            try:
                self.served[self.compose.ask(f"c{number}-{turn}")] += 1
            except urllib.error.HTTPError as error:
                self.failures.append(f"{error.code} {error.read().decode()}")
            except OSError as error:
                self.failures.append(repr(error))


def test_a_killed_replica_costs_no_request(compose: Compose) -> None:
    victim = compose.containers("replica")[0]["Name"]
    with Clients(compose) as clients:
        eventually(lambda: sum(clients.served.values()) > 40)
        docker("kill", victim)
        before = sum(clients.served.values())
        eventually(lambda: sum(clients.served.values()) > before + 100)
    assert clients.failures == []
    left = compose.addresses("replica")
    assert len(left) == 5
    eventually(lambda: takes_work(compose) == 5)
    assert {compose.ask(f"after-{number}") for number in range(20)} <= left


def test_more_replicas_are_found_and_used(compose: Compose) -> None:
    with Clients(compose) as clients:
        compose.run(
            "up", "--detach", "--no-build", "--wait", "--scale", "replica=9", "--no-recreate"
        )
        replicas = compose.addresses("replica")
        assert len(replicas) == 9
        eventually(lambda: takes_work(compose) == 9)
        clients.served.clear()
        eventually(lambda: set(clients.served) == replicas)
    assert clients.failures == []


def test_without_the_sidecar_requests_go_on(compose: Compose) -> None:
    with Clients(compose) as clients:
        compose.run("kill", "weighbridge")
        before = sum(clients.served.values())
        eventually(lambda: sum(clients.served.values()) > before + 50)
        compose.run("up", "--detach", "--no-build", "--wait", "--no-recreate", "weighbridge")
    assert clients.failures == []
    eventually(lambda: takes_work(compose) > 0)


def test_down_leaves_nothing(compose: Compose) -> None:
    compose.run("down", "--volumes", "--timeout", "5")
    assert compose.containers() == []


def takes_work(compose: Compose) -> float:
    """How many replicas the sidecar knows as healthy."""
    return sum(
        figure
        for series, figure in compose.metrics().items()
        if series.startswith("weighbridge_replicas{") and 'state="healthy"' in series
    )
