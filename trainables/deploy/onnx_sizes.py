"""Whole numbers that a network computes from the sizes of its tensors."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorLength:
    """The length of a tensor in the graph along an axis."""

    tensor: str
    axis: int


@dataclass(frozen=True)
class ComputedLength:
    """The result of an ONNX operator on lengths."""

    operator: str
    operands: tuple["Length", ...]


Length = int | TensorLength | ComputedLength


def compute_length(operator: str, *operands: Length) -> Length:
    """The result of an operator: Neg, Add, Sub, Mul, Mod or FloorDiv, all as in Python.

    Raises:
        NotImplementedError: for operands other than lengths.
    """
    if not all(isinstance(operand, Length) for operand in operands):
        raise NotImplementedError
    if operator != "FloorDiv":
        return ComputedLength(operator, operands)
    dividend, divisor = operands  # ONNX rounds a quotient towards 0, Python downwards
    remainder = ComputedLength("Mod", operands)
    return ComputedLength("Div", (ComputedLength("Sub", (dividend, remainder)), divisor))


def along_width(height: Length) -> Length:
    """The same computation with each height (axis 2) replaced by the width of the same tensor.

    Raises:
        NotImplementedError: it depends on another length than heights.
    """
    match height:
        case TensorLength(tensor, axis=2):
            return TensorLength(tensor, axis=3)
        case ComputedLength(operator, operands):
            return ComputedLength(operator, tuple(along_width(operand) for operand in operands))
        case int():
            return height
    raise NotImplementedError


def is_same_for_width(height: Length, width: Length) -> bool:
    """Whether a width is computed from one as a height is from the height of the same tensor."""
    try:
        return not isinstance(height, int) and along_width(height) == width
    except NotImplementedError:
        return False
