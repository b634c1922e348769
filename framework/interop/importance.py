"""What to say where edges were drawn with unequal chances and a foreign layer counts all alike."""

from torch import nn

from framework.errors import InputError


def unequal(layer: nn.Module) -> InputError:
    """The error for such a layer."""
    return InputError(
        f"{type(layer).__name__} takes no edge weights, and --sampler draws neighbours with unequal chances, which "
        "have to count unequally; take a layer whose forward has an argument edge_weight, or --sampler labor."
    )
