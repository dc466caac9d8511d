"""The launch files of real replicas: form alone, as there is no GPU to run them on."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from weighbridge.config.profiles import shipped_names

NEEDED = ("enable_chunked_prefill", "enable_iter_perf_stats", "return_perf_metrics")


@pytest.fixture
def backends(repository: Path) -> Path:
    """The folder of the backends."""
    return repository / "tensorrt_backends"


def read(path: Path) -> Any:
    """All documents of a YAML file, or its only one."""
    documents = list(yaml.safe_load_all(path.read_text()))
    return documents[0] if len(documents) == 1 else documents


def test_every_launch_file_switches_on_what_the_sidecar_needs(backends: Path) -> None:
    launched = sorted(path.stem for path in (backends / "launch").glob("*.env"))
    assert len(launched) >= 4
    assert set(launched) <= set(shipped_names())
    for name in launched:
        options = read(backends / "launch" / f"{name}.yaml")
        assert all(options[key] is True for key in NEEDED), name
        assert options["kv_cache_config"]["enable_block_reuse"] is True
        # What nothing here reads would only take the engine's memory.
        assert "event_buffer_max_size" not in options["kv_cache_config"]
        assert "perf_metrics_max_requests" not in options


def test_a_launch_is_as_its_profile_was_measured(backends: Path, tmp_path: Path) -> None:
    fake = tmp_path / "trtllm-serve"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for path in sorted((backends / "launch").glob("*.env")):
        said = subprocess.run(
            [backends / "launch" / "serve.sh", path.stem, "--log_level", "info"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        profile = read(backends / "profiles" / f"{path.stem}.yaml")
        for option, value in (
            ("--tp_size", profile["hardware"]["tensor_parallel"]),
            ("--max_batch_size", profile["max_batch_size"]),
            ("--max_num_tokens", profile["max_num_tokens"]),
            ("--max_seq_len", profile["max_seq_len"]),
            ("--log_level", "info"),
        ):
            assert f"{option} {value}" in said, path.stem


def test_requests_may_name_a_model_as_its_checkpoint_is_called(backends: Path) -> None:
    for path in sorted((backends / "launch").glob("*.env")):
        (checkpoint,) = re.findall(r"^CHECKPOINT=\$\{CHECKPOINT:-(.+)\}$", path.read_text(), re.M)
        profile = read(backends / "profiles" / f"{path.stem}.yaml")
        assert {checkpoint, checkpoint.rpartition("/")[2]} <= set(profile["models"]), path.stem


def test_profiles_of_one_model_know_it_by_the_same_names(backends: Path) -> None:
    names: dict[str, list[str]] = {}
    for path in (backends / "profiles").glob("*.yaml"):
        models = read(path)["models"]
        for name in models:
            assert names.setdefault(name, models) == models, path.name


def test_an_unknown_launch_names_those_there_are(backends: Path) -> None:
    done = subprocess.run(
        [backends / "launch" / "serve.sh", "nothing"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "llama-3.1-8b-fp8-h100" in done.stderr


def test_compose_and_kubernetes_start_what_is_there(backends: Path) -> None:
    service = read(backends / "compose.gpu.yaml")["services"]["tensorrt"]
    assert service["profiles"] == ["gpu"]
    deployment, headless = read(backends / "kubernetes" / "replicas.yaml")
    pod = deployment["spec"]["template"]
    container = pod["spec"]["containers"][0]
    launched = container["command"][-1]
    assert pod["metadata"]["labels"]["weighbridge/profile"] == launched
    kustomization = read(backends / "kustomization.yaml")
    # No file from outside: kustomize refuses those.
    for name in (*kustomization["configMapGenerator"][0]["files"], *kustomization["resources"]):
        assert (backends / name).is_file()
        assert not (backends / name).is_symlink()
    assert f"launch/{launched}.yaml" in kustomization["configMapGenerator"][0]["files"]
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert headless["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
