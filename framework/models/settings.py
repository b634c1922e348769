"""Checks of the settings that models share, for their `__post_init__`."""

from framework.errors import InputError


def require_widths(model: object, *names: str) -> None:
    """Raises InputError where one of the fields `names` of a model is a width, or a number of things, of nothing."""
    for name in names:
        width = getattr(model, name)
        if width < 1:
            raise InputError(f"--model.{_flag(name)} is {width}; expected a whole number of at least 1.")


def require_shares(model: object, *names: str) -> None:
    """Raises InputError where one of the fields `names` of a model is a dropout that is no share, or leaves nothing."""
    for name in names:
        share = getattr(model, name)
        if not 0 <= share < 1:
            raise InputError(f"--model.{_flag(name)} is {share}; expected at least 0 and less than 1.")


def _flag(name: str) -> str:
    return name.replace("_", "-")
