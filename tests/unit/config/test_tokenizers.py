"""Models with a tokenizer of their own: their prompts are counted as that tokenizer counts them."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from weighbridge.admin import explain
from weighbridge.config import core as cores
from weighbridge.config.file import Config
from weighbridge.config.profiles import load_profile, locate
from weighbridge.errors import ConfigError

PROFILE = "llama-3.1-8b-fp8-h100"
MODEL = str(load_profile(locate(PROFILE, Path.cwd()))["models"][0])
TEXTS = (
    "The truck is weighed before it is let onto the bridge; what is too heavy waits.",
    'fn main() {\n    println!("{:>8.3}", 1_000_000.0 / 7.0);\n}\n',
    "卡车在上桥之前要先称重。桥只承得住它所能承受的。",
    "naïve café \N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4} \x01 <|end|> <|ende|>",
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A byte-level BPE, as Llama's and Qwen's are, trained on a little text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([text * 3 for text in TEXTS], trainer)
    return made


def explained(directory: Path, text: str, **settings: Any) -> dict[str, Any]:
    """What is found of a chat by a configuration that lies in the directory."""
    replica = {"endpoint": "192.0.2.1:8000", "profile": PROFILE}
    content = {"profiles": [PROFILE], "replicas": [replica]} | settings
    core = cores.build(Config.model_validate(content), directory / "weighbridge.yaml")
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
    return explain.ask(core, explain.parse(json.dumps(body).encode()))


def test_a_prompt_is_counted_as_its_tokenizer_counts_it(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    tokenizer.save(str(tmp_path / "own.json"))
    for text in (*TEXTS, "".join(TEXTS) * 5):
        found = explained(tmp_path, text, tokenizers={MODEL: "own.json"})
        assert found["tokens_from"] == "tokenizer"
        counted = len(tokenizer.encode(text, add_special_tokens=False).ids)
        assert found["tokens"]["user"] == counted
        assert found["tokens"]["total"] == round(counted + found["tokens"]["template"])


def test_without_one_or_beyond_the_limit_it_is_estimated(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    tokenizer.save(str(tmp_path / "own.json"))
    plain = explained(tmp_path, TEXTS[0])
    assert plain["tokens_from"] == "estimate"
    own = {MODEL: "own.json"}
    assert explained(tmp_path, TEXTS[0], tokenizers=own, tokenizer_max_bytes=100) == plain
    assert explained(tmp_path, TEXTS[0], tokenizers=own) != plain


@pytest.mark.parametrize(
    ("tokenizers", "expected"),
    [
        ({MODEL: "none.json"}, rf"tokenizers\.{MODEL}: tokenizer \S+none\.json: "),
        ({MODEL: "wrong.json"}, rf"tokenizers\.{MODEL}: tokenizer \S+wrong\.json: "),
        ({"nobody": "own.json"}, r"tokenizers\.nobody: no profile names this model"),
    ],
)
def test_what_cannot_be_loaded_names_the_key_and_the_file(
    tmp_path: Path, tokenizer: Tokenizer, tokenizers: dict[str, str], expected: str
) -> None:
    tokenizer.save(str(tmp_path / "own.json"))
    (tmp_path / "wrong.json").write_text("{}")
    with pytest.raises(ConfigError, match=rf"weighbridge\.yaml: {expected}"):
        explained(tmp_path, "", tokenizers=tokenizers)
