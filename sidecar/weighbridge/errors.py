"""What the user is told, in one line, when a command cannot do what was asked."""

EXIT_FAILED = 1
EXIT_USAGE = 2


class RefusedError(Exception):
    """A command cannot go on. The message is for the user, in one line; no traceback is shown."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    @property
    def problems(self) -> tuple[str, ...]:
        """All that is wrong, a line each."""
        return (str(self),)


class ConfigError(RefusedError):
    """A configuration or profile is invalid. Each problem names the file and the key's path."""

    exit_code = EXIT_USAGE

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self._problems = tuple(" ".join(problem.split()) for problem in problems)

    @property
    def problems(self) -> tuple[str, ...]:
        return self._problems
