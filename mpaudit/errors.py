"""What mpaudit raises when it cannot do what it was asked."""


class MpauditError(Exception):
    """A message for the user: what, where, why and what to do next; the CLI prints it and exits.

    Caught in one place, `mpaudit.cli.main`; it never reaches the user as a traceback.
    """

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code
