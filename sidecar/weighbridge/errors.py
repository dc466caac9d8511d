"""What the user is told, in one line, when a command cannot do what was asked."""

EXIT_FAILED = 1
EXIT_USAGE = 2


class RefusedError(Exception):
    """A command cannot go on. The message is one line for the user; no traceback is shown."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class ConfigError(RefusedError):
    """A configuration or profile is invalid. The message names the file and the key's path."""

    exit_code = EXIT_USAGE
