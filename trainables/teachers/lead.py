"""Whether a teacher leads a network, without which it can hardly help it."""

CLEAR_LEAD = 0.02
"""mIoU by which a teacher should lead: seeds alone make a difference of 0.005 to 0.02."""


def leads(teacher_miou: float, miou: float) -> bool:
    """Whether the teacher is clearly better."""
    return miou + CLEAR_LEAD <= teacher_miou


def weak_teacher_warning(teacher_miou: float, rival: str) -> str:
    """The warning of a teacher that does not lead; `rival` is a network with its mIoU."""
    return (
        f"warning: the teacher has {100 * teacher_miou:.1f} % mIoU and {rival}: a teacher that "
        "does not lead clearly can hardly help; name a better one with --teacher"
    )
