"""Terms of a training's loss: what a loss or a penalty must be."""

from torch import Tensor

from scionet.errors import TrainingError


def scalar(value: object, what: str, advice: str) -> Tensor:
    """A term of the loss as a tensor without dimensions.

    Args:
        value: The term.
        what: What it is, for the error.
        advice: What to do if it is something else.

    Raises:
        TrainingError: If it is something else, or complex.
    """
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return value.reshape(())
    given = (
        f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    )
    raise TrainingError(f"{what} must be a scalar tensor; given {given}; {advice}")
