"""The one error that Convolith raises when it refuses something."""


class ConvolithError(ValueError):
    """A refusal: the message names the argument, what came, what was expected and what to do about it."""


def missing_extra(package: str, extra: str, purpose: str) -> ConvolithError:
    """The refusal for an optional `package` that is not installed but is needed for `purpose`."""
    return ConvolithError(
        f"{purpose} needs {package}, which is not installed; install it with: pip install 'convolith[{extra}]'"
    )
