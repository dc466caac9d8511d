"""What commands write for scripts."""

import json
import sys
from pathlib import Path

from weighbridge.errors import RefusedError


def write_json(content: object, file: Path) -> None:
    """What `--json FILE` writes; `-` is standard output."""
    text = json.dumps(content, indent=2) + "\n"
    if str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RefusedError(f"{file}: {error.strerror}") from None
