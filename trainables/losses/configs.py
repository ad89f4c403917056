"""The terms of the distillation loss that a recipe may name.

No file of the training framework is imported before a term is built.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    WrapSerializer,
)

from trainables.core.config_base import FrozenConfig, TaggedConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainables.data.label_counts import LabelCounts
    from trainables.losses.distillation import TermLoss
    from trainables.losses.label_loss import LabelLoss
    from trainables.models.base import Outputs

Balance = Literal["none", "sqrt", "enet", "median"]
"""How classes are weighted by their frequencies (see `class_weights`)."""
Overlap = Literal["none", "lovasz", "dice"]
"""A term for the overlap of predicted and labelled pixels."""


class LabelLossConfig(FrozenConfig):
    """The loss on labels: cross-entropy with class weights, and a term for overlap."""

    class_weights: Balance = "none"
    overlap: Overlap = "none"
    overlap_weight: float = Field(1.0, gt=0, description="of the term for overlap")

    def build(
        self, label_counts: "Callable[[], LabelCounts]", device: "torch.device"
    ) -> "LabelLoss":
        """The loss; the training labels are counted where classes are weighted."""
        from trainables.losses.class_weights import compute_class_weights
        from trainables.losses.label_loss import LabelLoss

        if self.class_weights == "none":
            return LabelLoss(self, None)
        weights = compute_class_weights(label_counts(), self.class_weights)
        return LabelLoss(self, weights.to(device))


Requirement = Literal["logits", "cosines", "channels", "decoder", "live"]
"""What a term needs of the teacher: its logits; also the cosine similarities of features; also the
channels of the features; also a feature map of the decoder, of the student, too; or the network
itself at every step."""
KEPT: frozenset[Requirement] = frozenset({"logits", "cosines"})
"""What outputs that were computed once and kept can serve: their features are projected."""
RESERVED = ("cross_entropy", "lovasz", "dice", "teacher")
"""Names of losses that are reported beside the terms."""
TERM_NAME = re.compile(r"[a-z][a-z0-9_]*")
"""Names of terms are parts of dotted paths, of a configuration and of a network's modules."""


def check_term_name(name: str) -> None:
    """Raises ValueError where no term may have this name."""
    if name in RESERVED:
        raise ValueError(f"a term must not be named {name}, which is another loss")
    if not TERM_NAME.fullmatch(name):
        raise ValueError(
            "the name of a term must be lowercase letters, digits and _, and begin with a letter, "
            f"but got {name!r}"
        )


class Term(TaggedConfig):
    """One term of the distillation loss between student and teacher."""

    weight: float = Field(1.0, ge=0)
    requires: ClassVar[Requirement]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        for name in get_args(cls.model_fields["name"].annotation):
            check_term_name(name)

    def build(
        self, student: "Outputs", teacher: "Outputs", class_weights_K: "Tensor | None" = None
    ) -> "TermLoss":
        """The loss as a module, sized by example outputs of both networks.

        Its parameters, if it has any, are trained with the student and then dropped.

        Args:
            student: with at least one image.
            teacher: for the same images.
            class_weights_K: of the cross-entropy with the labels; None where classes count alike.
        """
        raise NotImplementedError


Where = Literal["all", "teacher_right"]
"""The labelled pixels at which a teacher is imitated: all, or those that it classifies rightly."""


class Pixelwise(Term):
    """Distillation of the teacher's class distribution at every pixel."""

    name: Literal["pixelwise"] = "pixelwise"
    temperature: float = Field(2.0, gt=0, description="softens both distributions")
    where: Where = "all"
    class_weighted: bool = Field(
        False, description="whether the class weights of the cross-entropy weight pixels here, too"
    )
    requires: ClassVar[Requirement] = "logits"
    written_if_set: ClassVar[tuple[str, ...]] = ("where", "class_weighted")

    def build(
        self, student: "Outputs", teacher: "Outputs", class_weights_K: "Tensor | None" = None
    ) -> "TermLoss":
        from trainables.losses.pixelwise import PixelwiseLoss

        weights_K = class_weights_K if self.class_weighted else None
        return PixelwiseLoss(self.temperature, self.where, weights_K)


class Pairwise(Term):
    """Distillation of the teacher's similarities between pairs of regions."""

    name: Literal["pairwise"] = "pairwise"
    patch: int = Field(2, ge=1, description="feature pixels a side that make one node")
    requires: ClassVar[Requirement] = "cosines"

    def build(
        self, student: "Outputs", teacher: "Outputs", class_weights_K: "Tensor | None" = None
    ) -> "TermLoss":
        from trainables.losses.pairwise import PairwiseLoss

        return PairwiseLoss(self.patch)


class PairwiseDecoder(Term):
    """Distillation of the similarities between pairs of small regions of the decoder's features."""

    name: Literal["pairwise_decoder"] = "pairwise_decoder"
    max_nodes: int = Field(256, ge=4, description="memory grows with its square")
    requires: ClassVar[Requirement] = "decoder"

    def build(
        self, student: "Outputs", teacher: "Outputs", class_weights_K: "Tensor | None" = None
    ) -> "TermLoss":
        from trainables.losses.pairwise import PairwiseDecoderLoss

        return PairwiseDecoderLoss(self.max_nodes)


class Channelwise(Term):
    """Distillation of where in the image the teacher sees each class."""

    name: Literal["channelwise"] = "channelwise"
    temperature: float = Field(4.0, gt=0, description="softens both distributions")
    requires: ClassVar[Requirement] = "logits"

    def build(
        self, student: "Outputs", teacher: "Outputs", class_weights_K: "Tensor | None" = None
    ) -> "TermLoss":
        from trainables.losses.channelwise import ChannelwiseLoss

        return ChannelwiseLoss(self.temperature)


class ChannelwiseFeatures(Term):
    """Distillation of where in the image each channel of the deepest features is large."""

    name: Literal["channelwise_features"] = "channelwise_features"
    temperature: float = Field(4.0, gt=0, description="softens both distributions")
    requires: ClassVar[Requirement] = "channels"

    def build(
        self, student: "Outputs", teacher: "Outputs", class_weights_K: "Tensor | None" = None
    ) -> "TermLoss":
        from trainables.losses.channelwise import ChannelwiseFeaturesLoss
        from trainables.losses.feature_maps import project_channels

        projection = project_channels(student.features, teacher.features)
        return ChannelwiseFeaturesLoss(projection, self.temperature)


class AttentionGuided(Term):
    """Distillation of the deepest and the decoder's features, refined by attention."""

    name: Literal["attention_guided"] = "attention_guided"
    weight: float = Field(1 / 3, ge=0)
    requires: ClassVar[Requirement] = "decoder"

    def build(
        self, student: "Outputs", teacher: "Outputs", class_weights_K: "Tensor | None" = None
    ) -> "TermLoss":
        from trainables.losses.attention_guided import AttentionGuidedLoss

        return AttentionGuidedLoss(student, teacher)


ALWAYS_WRITTEN = ("pixelwise", "pairwise")
"""Terms that are written as null where they are absent, as they were when no others existed: the
digests of configurations stay what they were, and a further term does not change them."""


def read_terms(terms: object) -> object:
    """The terms that are present; a term without a name gets its key as its name."""
    if not isinstance(terms, Mapping):
        return terms
    for name in map(str, terms):
        check_term_name(name)
    return {
        name: {"name": name, **term} if isinstance(term, Mapping) else term
        for name, term in terms.items()
        if term is not None
    }


def write_terms(terms: object, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
    return {**dict.fromkeys(ALWAYS_WRITTEN), **handler(terms)}


Terms = Annotated[
    Mapping[str, SerializeAsAny[Term]],
    BeforeValidator(read_terms),
    WrapSerializer(write_terms),
]
"""Terms of the distillation loss by the names under which they are reported."""


TermWeights = Literal["fixed", "learned"]
"""Whether weights stay what they are, or labels and terms are balanced by learned ones."""


def by_name(*terms: Term) -> Terms:
    """The mapping of terms by their own names."""
    return {term.name: term for term in terms}
