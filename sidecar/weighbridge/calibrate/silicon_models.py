"""The models on hardware whose profiles are shipped, as NVIDIA's tables know them."""

from dataclasses import dataclass

RECENT, OLDER = "1.3.0rc20", "1.0.0"


@dataclass(frozen=True, slots=True)
class Served:
    """One model on one hardware, as TensorRT-LLM runs it."""

    name: str
    """The profile's."""
    tables_model: str
    """The model's name in the tables."""
    models: tuple[str, ...]
    """Names under which it is served."""
    family: str
    """Of its tokenizer."""
    max_seq_len: int
    """Positions that the checkpoint has, which trtllm-serve takes for its limit."""
    system: str
    tensor_parallel: int = 1
    quantization: str | None = None
    """None where the checkpoint itself says it."""
    kv_cache: str | None = "fp8"
    mixture: bool = False
    """Whether it is a mixture of experts."""
    version: str = RECENT
    reference: bool = False
    """Whether its milliseconds are the model's MU."""


def _names(short: str, *checkpoints: str) -> tuple[str, ...]:
    """What requests may call a model: its checkpoints, as trtllm-serve calls them, and our name.

    trtllm-serve names a model by the last part of its checkpoint.
    """
    first, *others = checkpoints
    lasts = [checkpoint.rpartition("/")[2] for checkpoint in checkpoints]
    return tuple(dict.fromkeys((first, short, *others, *lasts)))


LLAMA_8B = (
    "meta-llama/Meta-Llama-3.1-8B",
    _names("llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct", "nvidia/Llama-3.1-8B-Instruct-FP8"),
)
LLAMA_70B = (
    "meta-llama/Meta-Llama-3.1-70B",
    _names(
        "llama-3.1-70b", "meta-llama/Llama-3.1-70B-Instruct", "nvidia/Llama-3.1-70B-Instruct-FP8"
    ),
)
QWEN_8B = ("Qwen/Qwen3-8B", _names("qwen3-8b", "Qwen/Qwen3-8B", "Qwen/Qwen3-8B-FP8"))
QWEN_32B = ("Qwen/Qwen3-32B-FP8", _names("qwen3-32b", "Qwen/Qwen3-32B", "Qwen/Qwen3-32B-FP8"))
QWEN_30B = (
    "Qwen/Qwen3-30B-A3B-FP8",
    _names("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B-FP8"),
)
GPT_OSS = ("openai/gpt-oss-120b", _names("gpt-oss-120b", "openai/gpt-oss-120b"))


LONG, QWEN3 = 131_072, 40_960


def _llama(name: str, which: tuple[str, tuple[str, ...]], system: str, **more: object) -> Served:
    settings: dict[str, object] = {"quantization": "fp8", "kv_cache": "fp8"} | more
    return Served(name, which[0], which[1], "llama3", LONG, system, **settings)  # type: ignore[arg-type]


def _qwen(name: str, which: tuple[str, tuple[str, ...]], system: str, **more: object) -> Served:
    return Served(name, which[0], which[1], "qwen", QWEN3, system, **more)  # type: ignore[arg-type]


BFLOAT16: dict[str, object] = {"quantization": "bfloat16", "kv_cache": "bfloat16"}

# A model's reference comes before the others on which it runs.
SERVED: tuple[Served, ...] = (
    _llama("llama-3.1-8b-fp8-h100", LLAMA_8B, "h100_sxm", reference=True),
    _llama("llama-3.1-8b-fp8-h200", LLAMA_8B, "h200_sxm"),
    _llama("llama-3.1-8b-fp8-b200", LLAMA_8B, "b200_sxm"),
    _llama("llama-3.1-8b-fp8-l40s", LLAMA_8B, "l40s"),
    _llama("llama-3.1-8b-bf16-a100", LLAMA_8B, "a100_sxm", version=OLDER, **BFLOAT16),
    _llama("llama-3.1-8b-bf16-h100", LLAMA_8B, "h100_sxm", **BFLOAT16),
    _llama("llama-3.1-70b-fp8-h100x4", LLAMA_70B, "h100_sxm", tensor_parallel=4, reference=True),
    _llama("llama-3.1-70b-fp8-h100x2", LLAMA_70B, "h100_sxm", tensor_parallel=2),
    _llama("llama-3.1-70b-fp8-h200", LLAMA_70B, "h200_sxm"),
    _llama("llama-3.1-70b-fp8-h200x2", LLAMA_70B, "h200_sxm", tensor_parallel=2),
    _llama("llama-3.1-70b-fp8-b200", LLAMA_70B, "b200_sxm"),
    _qwen("qwen3-8b-fp8-h100", QWEN_8B, "h100_sxm", quantization="fp8", reference=True),
    _qwen("qwen3-32b-fp8-h100", QWEN_32B, "h100_sxm", reference=True),
    _qwen("qwen3-32b-fp8-h200", QWEN_32B, "h200_sxm"),
    _qwen("qwen3-30b-a3b-fp8-h100", QWEN_30B, "h100_sxm", mixture=True, reference=True),
    Served(
        "gpt-oss-120b-h200",
        GPT_OSS[0],
        GPT_OSS[1],
        "o200k",
        LONG,
        "h200_sxm",
        kv_cache=None,
        mixture=True,
        reference=True,
    ),
)
