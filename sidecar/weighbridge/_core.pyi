"""The Rust core as Python sees it. Structured values cross the border as JSON text."""

from typing import Self, final

class CoreError(Exception):
    """The core refused a configuration or could not start something; the message is one line."""

@final
class Core:
    """What decides: profiles, replicas, ledger, prefix index. Shared by both transports."""

    def __new__(cls, settings_json: str) -> Self:
        """Raises CoreError naming the key when a setting or a profile is invalid.

        settings_json: {"profiles": [Profile, …], "placing": {…}, "session_headers": [str, …],
        "tenant_header": str, "default_output_tokens": int, "decision_log": int}
        """
    def set_replicas(self, replicas_json: str) -> int:
        """Replaces the replicas.

        replicas_json: [{"endpoint", "profile", "model", "adapters", "domain", "state", "share"}, …]
        Returns the new pool's number. In-flight charges survive.
        """
    def assign(self) -> None:
        """One round of the assigner, with what was placed since the last; every few seconds."""
    def set_placing(self, placing_json: str) -> None:
        """Changes how replicas are chosen, from the next request on: {"spill_margin_ms", …}.

        Raises CoreError when a key is unknown or of a wrong type; then nothing is changed.
        """
    def status(self) -> str:
        """{"pool": int, "replicas": [{"endpoint", "model", "state", "requests", "prefill_mu",
        "decode_mu", "kv_tokens", "capacity_mu_per_min", "cached_blocks",
        "served": {"requests", "mu", …}}, …], "streams": int, "reasons": {reason: count},
        "errors": {code: count}}
        """
    def decisions(self, after: int) -> str:
        """The latest decisions with a number above `after`, oldest first:
        [{"number", "request_id", "session", "tenant", "model", "replica", "fallbacks", "reason",
        "prompt_tokens", "cached_tokens", "output_tokens", "mu", "prefill_mu", "decode_mu", …}, …]
        """
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
    ) -> Self:
        """listen: "host:port" or "unix:/path". Returns once it listens, else raises CoreError.

        Without a core it always chooses the same replica: the protocol's own cost, for benchmarks.
        """
    @property
    def address(self) -> str: ...
    def set_ready(self, ready: bool) -> None:
        """What the gRPC health service answers for readiness."""
    def stop(self, drain_seconds: float) -> bool:
        """Takes no new stream, lets open ones end; True when none was cut off."""

@final
class Stream:
    """One ext_proc stream's state machine, for a transport written in Python."""

    def __new__(cls, core: Core) -> Self: ...
    def on_message(self, message: bytes) -> list[bytes]:
        """Serialised ProcessingRequest in, serialised ProcessingResponses out.

        Raises ValueError when the bytes are no ProcessingRequest.
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
