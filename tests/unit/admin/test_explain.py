"""Explain: what it shows of a request is what the live core charges for it."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from envoy_data_plane.envoy.config.core.v3 import HeaderMap, HeaderValue
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ProcessingModeBodySendMode
from envoy_data_plane.envoy.service.ext_proc.v3 import (
    HttpBody,
    HttpHeaders,
    ProcessingRequest,
    ProtocolConfiguration,
)
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import weighbridge
from weighbridge._core import Core, Stream
from weighbridge.admin import explain
from weighbridge.cli.main import app
from weighbridge.errors import ConfigError, RefusedError

EXAMPLES = sorted((Path(weighbridge.__file__).parent / "data" / "examples").glob("*.json"))


def asked_of(example: Path) -> explain.Asked:
    return explain.parse(example.read_bytes())


def open_stream(core: Core, asked: explain.Asked) -> Stream:
    """Sends the request through the state machine, as Envoy would; it stays in flight."""
    pairs = [(":method", "POST"), (":path", asked.path), *asked.headers]
    headers = HeaderMap(
        headers=[HeaderValue(key=name, raw_value=value.encode()) for name, value in pairs]
    )
    stream = Stream(core)
    for message in (
        ProcessingRequest(
            request_headers=HttpHeaders(headers=headers),
            protocol_config=ProtocolConfiguration(
                request_body_mode=ProcessingModeBodySendMode.BUFFERED_PARTIAL
            ),
        ),
        ProcessingRequest(request_body=HttpBody(body=asked.body, end_of_stream=True)),
    ):
        assert len(stream.on_message(bytes(message))) == 1
    return stream


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_terms_add_up_to_what_the_live_core_charges(example: Path) -> None:
    asked = asked_of(example)
    core = explain.core_for(asked, None)
    for times in range(1, 3):  # the second time the prompt is cached
        found = explain.ask(core, asked)
        stream = open_stream(core, asked)
        decision = json.loads(core.decisions(0))[-1]
        terms = sum(found["cost"][term] for term in explain.COST_TERMS)
        assert decision["mu"] == pytest.approx(terms, abs=1e-6)
        assert decision["replica"] == found["chosen"]
        assert decision["fallbacks"] == found["fallbacks"]
        assert decision["cached_tokens"] == found["cost"]["cached_tokens"]
        charged = {one["endpoint"]: one for one in json.loads(core.status())["replicas"]}
        carried = charged[found["chosen"]]
        decode = found["cost"]["decode_mu"]
        assert carried["decode_mu"] == pytest.approx(decode, abs=1e-5)
        # Nobody sees the first token of an answer in one piece: by the forecast it is there,
        # perhaps before we look.
        prefill = pytest.approx(terms - decode, abs=1e-5)
        assert carried["prefill_mu"] == prefill or carried["prefill_mu"] == 0
        assert carried["kv_tokens"] == found["cost"]["kv_tokens"]
        stream.close()
        assert carried["served"]["requests"] == times


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_parts_add_up_to_the_prompt(example: Path) -> None:
    asked = asked_of(example)
    tokens = explain.ask(explain.core_for(asked, None), asked)["tokens"]
    total = tokens.pop("total")
    assert sum(tokens.values()) == pytest.approx(total, abs=1.0)


def test_a_cached_prompt_is_shown_by_replica_and_costs_less() -> None:
    filler = "A long question about the bridge, its trucks and their weight. " * 40
    content = {"model": "llama-3.1-8b", "messages": [{"role": "user", "content": filler}]}
    asked = explain.parse(json.dumps(content).encode())
    core = explain.core_for(asked, None)
    cold = explain.ask(core, asked)
    assert cold["cached"] == []
    stream = open_stream(core, asked)
    answered = HeaderMap(headers=[HeaderValue(key=":status", raw_value=b"200")])
    stream.on_message(bytes(ProcessingRequest(response_headers=HttpHeaders(headers=answered))))
    stream.close()
    warm = explain.ask(core, asked)
    (cached,) = warm["cached"]
    assert cached["endpoint"] == cold["chosen"] == warm["chosen"]
    assert cached["tokens"] == warm["cost"]["cached_tokens"] > 0
    assert warm["cost"]["prefill_mu"] < cold["cost"]["prefill_mu"]


def test_a_body_alone_keeps_its_bytes_and_finds_its_path() -> None:
    body = b'{"model":"m","prompt":"a","prompt":"\\u00e9"}'
    asked = explain.parse(body)
    assert (asked.path, asked.headers, asked.body) == ("/v1/completions", (), body)
    assert explain.parse(asked.wrapped()) == asked


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
names = st.sampled_from(["model", "messages", "prompt", "input", "path", "headers", "other"])


@given(
    st.dictionaries(names, values),
    st.text(),
    st.lists(st.tuples(st.text(), st.text())),
    st.booleans(),
)
def test_a_wrapped_request_is_the_same_request(
    body: dict[str, Any], path: str, headers: list[tuple[str, str]], escaped: bool
) -> None:
    content = json.dumps(body, ensure_ascii=escaped).encode()
    asked = explain.Asked(path, tuple(headers), content)
    assert explain.parse(asked.wrapped()) == asked
    wrapped = {"path": path, "headers": headers, "body": body}
    given_as_object = explain.parse(json.dumps(wrapped, ensure_ascii=escaped).encode())
    assert (given_as_object.path, given_as_object.headers) == (path, tuple(headers))
    assert json.loads(given_as_object.body) == body
    alone = explain.parse(content)
    keys = ("messages", "prompt", "input")
    expected = dict(zip(keys, ("chat/completions", "completions", "responses"), strict=True))
    first = next((key for key in keys if key in body), "messages")
    assert alone == explain.Asked(f"/v1/{expected[first]}", (), content)


@given(st.binary())
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(ConfigError):
        explain.parse(content)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"body": "\\ud800"}',
        '{"a": ' + "[" * 200 + "]" * 200 + "}",
        "{",
        '{"path": 1, "body": {}}',
        '{"headers": [["a"]], "body": {}}',
        '{"headers": 3, "body": {}}',
    ],
)
def test_what_is_no_request_is_said_in_one_line(content: str) -> None:
    with pytest.raises(ConfigError):
        explain.parse(content.encode())


def test_a_refusal_is_the_one_that_a_client_would_get() -> None:
    asked = explain.parse(b'{"model":"llama-3.1-8b","messages":[]}')
    with pytest.raises(explain.RefusedByCoreError, match="at least one message") as error:
        explain.ask(explain.core_for(asked, None), asked)
    assert error.value.refusal["error"]["type"] == "invalid_request_error"


def test_an_unknown_model_needs_a_configuration() -> None:
    with pytest.raises(RefusedError, match=r"'nobody'; give --config \(there are: \S+"):
        explain.core_for(explain.parse(b'{"model":"nobody","messages":[]}'), None)


def test_the_command_prints_tables_or_json() -> None:
    runner = CliRunner()
    chat = next(path for path in EXAMPLES if path.stem == "chat")
    shown = runner.invoke(app, ["explain", str(chat)])
    assert shown.exit_code == 0
    assert "prefill" in shown.stdout
    written = runner.invoke(app, ["explain", str(chat), "--json", "-"])
    found = json.loads(written.stdout)
    assert found["cost"]["total_mu"] > 0
    assert found["chosen"] in {one["endpoint"] for one in found["candidates"]}
