"""The Rust core as Python sees it. Structured values cross the border as JSON text."""

from collections.abc import Callable
from os import PathLike
from typing import Self, final

EXT_PROC_DESCRIPTORS: bytes
"""Envoy's external_processor.proto and its imports: a serialised FileDescriptorSet."""

class CoreError(Exception):
    """The core refused a configuration or could not start something; the message is one line."""

@final
class Core:
    """What decides: profiles, replicas, ledger, prefix index. Shared by both transports."""

    def __new__(cls, settings_json: str) -> Self:
        """Raises CoreError naming the key when a setting or a profile is invalid.

        settings_json: {"profiles": [Profile, …], "placing": {…}, "session_headers": [str, …],
        "tenant_header": str | None, "tenant_claim": {"namespace": str, "path": [str, …]} | None,
        "counted_tenants": int, "default_output_tokens": int, "decision_log": int,
        "admission": {…}, "priority_header": str, "usage_records": int, "spans": int,
        "unweighed": "pass" | "pick", "tokenizers": {model: file}, "tokenizer_max_bytes": int,
        "health": {…}}
        """
    def set_replicas(self, replicas_json: str) -> int:
        """Replaces the replicas.

        replicas_json: [{"endpoint", "profile", "model", "adapters", "domain", "state", "share"}, …]
        Returns the new pool's number. In-flight charges survive.
        """
    def drain(self, endpoint: str, on: bool) -> bool:
        """Has a replica drained, or takes that back: no new session, sessions leave it at their
        next turn, what is in flight ends there. Whether there is such a replica.
        """
    def assign(self) -> None:
        """One round of the assigner, with what was placed since the last; every few seconds."""
    def set_placing(self, placing_json: str) -> None:
        """Changes how replicas are chosen, from the next request on: {"spill_margin_ms", …}.

        Raises CoreError when a key is unknown or of a wrong type; then nothing is changed.
        """
    def set_admission(self, admission_json: str) -> None:
        """Changes tenants' terms and what may wait, from now on: {"enabled", "queue": {…},
        "tenants": {name: {…}}, "default_tenant": {…}}.

        Raises CoreError when terms cannot be; then nothing is changed.
        """
    def set_observe_only(self, observe_only: bool) -> None:
        """Whether decisions are only recorded, from the next request on.

        Then the gateway is told nothing, nobody waits and nothing is refused.
        """
    def hear(self, observations_json: str) -> None:
        """Takes in what was seen of replicas from outside their requests.

        observations_json: [{"endpoint", "probe": "good" | "bad" | "refused", "outlier": bool,
        "engine": {"iteration", "requests", "kv_tokens"}}, …], all but the endpoint optional.
        """
    def judge(self) -> str:
        """Judges the replicas' health; about once a second. The changes of state:
        [{"endpoint", "from", "to", "cause", "share"}, …]
        """
    def set_health(self, health_json: str) -> None:
        """Judges health by other settings from now on: {"enabled", "first_byte_ms",
        "most_foreign_ms", "judgement": {…}}.
        """
    def take_usage(self, most: int) -> list[str]:
        """Takes up to `most` usage records, oldest first: a JSON object each."""
    def take_spans(self, most: int) -> list[str]:
        """Takes up to `most` spans of traced requests, oldest first: a JSON object each,
        {"parent": {"trace_id", "span_id"}, "request_id", "endpoint", "started_us", "ended_us",
        "waited_us", "outcome": {"placed": {…}} | {"refused": {"status", "code"}}}.
        """
    def now_us(self) -> int:
        """µs on the core's clock, in which usage records tell the time."""
    def in_flight(self) -> dict[str, int]:
        """Requests in flight by endpoint, at the replicas that have any."""
    def status(self) -> str:
        """{"pool": int, "replicas": [{"endpoint", "model", "state", "requests", "prefill_mu",
        "decode_mu", "kv_tokens", "capacity_mu_per_min", "cached_blocks",
        "served": {"requests", "mu", …}}, …], "now_us": int,
        "health": {…}, "streams": int, "reasons": {reason: count}, "errors": {code: count},
        "admission": {model: {"running", "running_mu", "promised_mu",
        "open", "waiting": {priority: {"requests", "mu"}}, "tenants": [{…}, …]}},
        "tenants": [{"tenant", "model", "requests", "mu", "prompt_tokens", "cached_tokens",
        "output_tokens"}, …], "usage_records_lost": int, "spans_lost": int,
        "reaped": int}
        """
    def slices(self) -> str:
        """{"number": int, "models": {model: {"total": int, "slices": [{"start", "homes"}, …]}},
        "moves": [{"number", "model", "start", "last", "from", "to", "why"}, …]}

        Keys as shares of the key space, 0 to 1; at most 2,000 slices a model, 256 moves.
        """
    def decisions(self, after: int, most: int = ...) -> str:
        """The first `most` decisions kept with a number above `after`, oldest first:
        [{"number", "request_id", "session", "tenant", "model", "replica", "fallbacks", "reason",
        "prompt_tokens", "cached_tokens", "output_tokens", "mu", "prefill_mu", "decode_mu", …}, …]
        """
    def latest_decisions(self, most: int) -> str:
        """The latest `most` decisions, oldest first, as `decisions` has them."""
    def explain(self, path: str, headers_json: str, body: bytes) -> str:
        """Weighs and places a request without charging it.

        Tokens by part, cost by term, the score of every candidate, the choice and the reason.
        """

@final
class NativeServer:
    """The tonic ext_proc server on its own threads; Python is not on the path."""

    def __new__(
        cls,
        core: Core | None,
        listen: str,
        threads: int = 2,
        max_message_bytes: int = ...,
        max_streams: int = ...,
        tls: tuple[bytes, bytes, bytes | None] | None = None,
    ) -> Self:
        """listen: "host:port" or "unix:/path". Returns once it listens, else raises CoreError.

        max_streams: that one connection may have open. tls: certificates, key, clients' CA, in PEM.

        Without a core it always chooses the same replica: the protocol's own cost, for benchmarks.
        """
    @property
    def address(self) -> str: ...
    def set_ready(self, ready: bool) -> None:
        """What the gRPC health service answers for readiness."""
    def set_tls(self, certificate: bytes, key: bytes, client_ca: bytes | None) -> None:
        """Shows these certificates (PEM) to connections from now on.

        Raises CoreError when they cannot be used; then the former ones stay.
        """
    def stop(self, drain_seconds: float) -> bool:
        """Takes no new stream, lets open ones end; True when none was cut off."""

@final
class Stream:
    """One ext_proc stream's state machine, for a transport written in Python."""

    def __new__(cls, core: Core, traceparent: str | None = None) -> Self:
        """traceparent: of the gRPC call, that is the gateway's own span."""
    def on_message(self, message: bytes) -> list[bytes]:
        """Serialised ProcessingRequest in, serialised ProcessingResponses out.

        Raises ValueError when the bytes are no ProcessingRequest.
        """
    def is_over(self) -> bool:
        """Whether the stream may be ended, once all replies are sent."""
    def is_heavy(self, size: int) -> bool:
        """Whether a message of this many bytes may hold up the thread that hands it over."""
    def more_time(self) -> bytes | None:
        """Asks for the time that a heavy message may take; to be sent before it is handed over."""
    def refuse_too_large(self, most_bytes: int) -> list[bytes]:
        """The refusal of a request whose body came in a larger message than `most_bytes`; empty
        where it cannot be refused.
        """
    def refuse_busy(self) -> list[bytes]:
        """The refusal of a request whose body cannot be read in time; empty likewise."""
    def is_waiting(self) -> bool:
        """Whether an answer waits for admission, which `resume` gives; messages may be handed over
        meanwhile.
        """
    def resume(self, wake: Callable[[], object]) -> list[bytes] | None:
        """The replies that have waited, or None while they still have to; then `wake` is called
        once, from any thread, when it is worth asking again.
        """
    def close(self) -> None:
        """The stream has ended: releases what it had charged. Idempotent."""

@final
class Emulator:
    """Emulated replicas on their own ports and threads."""

    def __new__(cls, config_json: str) -> Self:
        """Returns once every port listens, else raises CoreError naming the port."""
    def addresses(self) -> list[str]: ...
    def stop(self) -> None: ...

@final
class FilledCore:
    """A core with a filled prefix index; its memory is held until it is dropped."""

    def index_blocks(self) -> int: ...

def read_asked(content: bytes) -> tuple[str, list[tuple[str, str]], bytes]:
    """Path, headers and body of a body, or of `{"path", "headers", "body"}`, without a tree.

    CoreError where it is no such JSON, holds half a surrogate pair, or nests beyond 127.
    """

def bench_decision(profile_json: str, case_json: str, seconds: float) -> str:
    """Times decisions in Rust for about `seconds`.

    case_json: {"body_bytes", "replicas", "index_blocks"}. Returns {"body_bytes", "replicas",
    "index_blocks", "held_blocks", "p50_us", "p99_us", "per_second_core", "gb_per_s",
    "read_gb_per_s"}.
    """

def bench_fill(profile_json: str, case_json: str, sessions: int) -> FilledCore:
    """Fills a core's index from at least `sessions` sessions."""

def bench_body(model: str, session: int, bytes: int) -> bytes:  # noqa: A002
    """A chat body of about so many bytes; a longer one of the same session begins alike."""

@final
class Trace:
    """Requests by time of arrival, their prompts as paths in a tree of messages."""

    @staticmethod
    def load(path: str | PathLike[str], options_json: str = "{}") -> Trace:
        """Loads a file; CoreError names the line at fault.

        options_json: {"format": str | None, "sessions_per_s": float, "seed": int}
        """
    @staticmethod
    def generate(settings_json: str = "{}") -> Trace:
        """Makes a trace.

        settings_json: the `workload`, one of `workloads()`, and what differs from it; without one,
        what differs from `generator_defaults()`
        """
    def save(self, path: str | PathLike[str]) -> None:
        """Writes it in Weighbridge's own format."""
    @property
    def name(self) -> str: ...
    @property
    def requests(self) -> int: ...
    @property
    def sessions(self) -> int: ...
    @property
    def tenants(self) -> int: ...
    @property
    def rate(self) -> float: ...
    def replay(self, scaling_json: str = "{}") -> Replay:
        """Plans a replay: copies of whole sessions until the rate is met.

        scaling_json: {"rate", "time_scale", "start_s", "duration_s", "most_tokens", "tenants",
        "tenant_skew", "steady", "surge", "seed"}, all optional
        """

@final
class Replay:
    """A trace at some rate."""

    def __len__(self) -> int: ...
    @property
    def rate(self) -> float: ...
    def request(self, number: int) -> tuple[float, str, str, int, int, int, int, str]:
        """(at_seconds, session, tenant, turn, input_tokens, output_tokens, max_tokens, kind)."""
    def body(
        self, number: int, model: str, stream: bool = True, exact_length: bool = False
    ) -> bytes:
        """The body of the chat completion, or of the request for embeddings.

        `exact_length` asks for the very length of the answer.
        """

@final
class Progress:
    """How far runs are; any thread may look."""

    def __new__(cls) -> Self: ...
    def steps(self) -> tuple[int, int]:
        """Requests simulated, and known of."""
    def stop(self) -> None:
        """Makes runs end soon."""

@final
class Simulation:
    """A trace before modelled replicas. Runs release the GIL and may go on side by side."""

    def __new__(cls, scenario_json: str, trace: Trace, scaling_json: str = "{}") -> Self: ...
    @property
    def capacity_rps(self) -> float:
        """Requests a second that the replicas would about sustain if they cached nothing."""
    def run(
        self,
        policy: str,
        rate: float | None = None,
        seed: int = 0,
        bounds: bool = True,
        progress: Progress | None = None,
    ) -> str:
        """One run: {"row": {…}, "detail": {…}}."""
    def goodput(
        self,
        policy: str,
        seed: int = 0,
        search_json: str = "{}",
        progress: Progress | None = None,
    ) -> str:
        """{"rps", "above_rps", "tried": [[rate, served], …]}.

        search_json: {"start_rps", "precision", "most_runs"}
        """

def policies() -> list[str]: ...
def engines() -> list[str]: ...
def workloads() -> list[str]: ...
def generator_defaults() -> str:
    """The settings of generated traces, as they are by default, as JSON."""
