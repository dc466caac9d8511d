"""The configuration: what is right is read, what is wrong is one line with file and key."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from weighbridge.config.file import Config
from weighbridge.config.problems import MOST_PROBLEMS, key_path
from weighbridge.config.reading import load
from weighbridge.errors import ConfigError

REPLICA = {"endpoint": "10.0.0.1:8000", "profile": "p"}


def write(directory: Path, content: object) -> Path:
    path = directory / "weighbridge.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def refusal(directory: Path, content: object) -> str:
    path = write(directory, content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text.removeprefix(str(path))


@pytest.mark.parametrize("name", ["Host", "connection", "te"])
def test_a_header_that_can_never_arrive_names_nobody(tmp_path: Path, name: str) -> None:
    for setting in (f"tenant_header: {name}", f"session_headers: [{name}]"):
        with pytest.raises(ConfigError, match="never reaches the sidecar"):
            load(write(tmp_path, setting))


@pytest.mark.parametrize("content", ["", "# nothing yet\n", "---\n", "{}"])
def test_an_empty_file_is_a_mistake(tmp_path: Path, content: str) -> None:
    assert refusal(tmp_path, content) == ": holds nothing"


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    config = load(write(tmp_path, "profiles: []"))
    assert config == Config()
    agents = ("session_id", "conversation_id")
    assert config.session_headers == ("x-session-id", "x-conversation-id", *agents)
    assert config.listen.transport == "native"


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    config = load(
        write(
            tmp_path,
            {
                "listen": {"address": "unix:/run/w.sock", "transport": "grpcio", "threads": 4},
                "admin": {"address": "127.0.0.1:7000"},
                "profiles": ["p", "./q.yaml"],
                "replicas": [REPLICA | {"model": "m", "domain": "r1", "adapters": ["a"]}],
                "placing": {"load_tolerance": 0.5},
                "session_headers": ["X-Chat"],
                "tenant_header": "X-Org",
                "log": {"level": "debug", "format": "json"},
            },
        )
    )
    assert config.replicas[0].endpoint == "10.0.0.1:8000"
    assert config.replicas[0].adapters == ("a",)
    assert config.session_headers == ("x-chat",)
    assert config.tenant_header == "x-org"
    assert config.placing.load_tolerance == 0.5


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"lisen": {}}, ": lisen: unknown key; did you mean 'listen'?"),
        ({"listen": {"adress": "x"}}, ": listen.adress: unknown key; did you mean 'address'?"),
        ({"zebra": 1}, ": zebra: unknown key"),
        (
            {"listen": {"transport": "nativ"}},
            ": listen.transport: must be 'native' or 'grpcio'; did you mean 'native'?",
        ),
        (
            {"discovery": {"sources": [{"kind": "file", "pth": "a"}]}},
            ": discovery.sources[0].path: must be given",
        ),
        (
            {"discovery": {"sources": [{"kind": "endpointslices"}]}},
            ": discovery.sources[0].kind: must be 'file', 'dns', 'envoy', 'endpoint_slices', "
            "'inference_pool'; did you mean 'endpoint_slices'?",
        ),
        ({"discovery": {"sources": [{}]}}, ": discovery.sources[0].kind: must be given"),
        (
            {"discovery": {"sources": [{"kind": "dns", "profile": "p", "name": "n"}]}},
            ": discovery.sources[0].port: must be given with `record: address`",
        ),
        ({"tokenizers": {"": "a"}}, ": tokenizers['']: must have at least 1 character"),
        (
            {"admission": {"tenants": {"a": {"wieght": 2}}}},
            ": admission.tenants.a.wieght: unknown key; did you mean 'weight'?",
        ),
        ({"listen": {"address": "here"}}, ": listen.address: 'here' is no host:port"),
        ({"listen": {"transport": "http"}}, ": listen.transport: must be 'native' or 'grpcio'"),
        ({"admin": {"address": "0.0.0.0:80"}}, ": admin.address: '0.0.0.0:80': must be a loopback"),
        (
            {"tenant_claim": {"path": ["tenant"], "jwt": {"issuer": "i", "jwks_file": "f"}}},
            ": tenant_claim.path: with `jwt`, a key for all claims",
        ),
        ({"replicas": [REPLICA, {"profile": "p"}]}, ": replicas[1].endpoint: must be given"),
        ({"replicas": [REPLICA | {"endpoint": "gpu:80"}]}, ": replicas[0].endpoint: 'gpu:80': a"),
        (
            {"replicas": [REPLICA, REPLICA]},
            ": replicas[1].endpoint: '10.0.0.1:8000' is replicas[0]",
        ),
        (
            {"replicas": [REPLICA, REPLICA | {"endpoint": "[::FFFF:a00:1]:8000"}]},
            ": replicas[1].endpoint: '[::ffff:10.0.0.1]:8000' is replicas[0]",
        ),
        (
            {"discovery": {"sources": [{"kind": "file", "path": "a"}] * 2}},
            ": discovery.sources[1]: 'file a' is discovery.sources[0] already",
        ),
        ({"session_headers": ["a", "b c"]}, ": session_headers[1]: 'b c' is no header name"),
        ({"session_headers": ["Authorization"]}, ": session_headers[0]: 'Authorization' carries a"),
        ({"placing": {"load_tolerance": -1}}, ": placing.load_tolerance: must be greater"),
        ({"placing": None}, ": placing: must be"),
        ("listen: {", ":2: "),
        ("a: 1\nb: 2\na: 3\n", ":3: the key 'a' is given twice"),
        ("- 1\n", ": must hold keys and values, not a list"),
        ("a: !!python/object/apply:os.getcwd []", ":1: "),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path: Path, content: object, expected: str) -> None:
    assert refusal(tmp_path, content).startswith(expected)


def test_only_health_and_metrics_leave_loopback_without_a_token(tmp_path: Path) -> None:
    config = load(write(tmp_path, {"metrics": {"address": "0.0.0.0:9006"}}))
    assert (config.admin.address, config.metrics.address) == ("127.0.0.1:9005", "0.0.0.0:9006")
    assert "give admin.token_file, or metrics.address for health and metrics" in refusal(
        tmp_path, {"admin": {"address": "0.0.0.0:80"}}
    )


def test_all_mistakes_are_told_at_once_each_with_its_key(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "lissten": {},
            "placing": {"samples": "many", "spil_margin_ms": 1},
            "replicas": [{"profile": "p"}, REPLICA | {"share": 2}],
            "discovery": {"sources": [{"kind": "file", "paths": "a"}]},
        },
    )
    with pytest.raises(ConfigError) as caught:
        load(path)
    told = [problem.removeprefix(f"{path}: ").split(":")[0] for problem in caught.value.problems]
    assert sorted(told) == [
        "discovery.sources[0].path",
        "discovery.sources[0].paths",
        "lissten",
        "placing.samples",
        "placing.spil_margin_ms",
        "replicas[0].endpoint",
        "replicas[1].share",
    ]
    assert all(problem in str(caught.value) for problem in caught.value.problems)


def test_of_very_many_mistakes_the_rest_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path, {"replicas": [{"profile": "p"}] * 500})
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(caught.value.problems) == MOST_PROBLEMS + 1
    assert caught.value.problems[-1] == f"{path}: and {500 - MOST_PROBLEMS:,} more mistakes"


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        load(tmp_path / "none.yaml")
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(path)


@given(text=st.text(max_size=200))
def test_any_text_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    problem = str(path)
    try:
        load(path)
    except ConfigError as error:
        problem = str(error)
    assert problem.startswith(str(path))
    assert len(problem.splitlines()) == 1


def test_key_paths() -> None:
    assert key_path(("replicas", 2, "endpoint")) == "replicas[2].endpoint"
    assert key_path(("admission", "tenants", "a b", "weight")) == "admission.tenants['a b'].weight"
    assert key_path(()) == ""
