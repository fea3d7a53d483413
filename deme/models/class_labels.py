"""Models that are told the class of an image: by its number as a text, "0", "1", ..."""

from collections.abc import Sequence

import torch

from deme.diffusion import Condition
from deme.models.denoiser import DenoisingModel
from deme.system import BadConfig

LABELS = "class_labels"  # the networks' argument


class ClassConditionalModel(DenoisingModel):
    """`model(x_t [B, C, H, W], t [B], {"class_labels": [B]})` returns the prediction [B, C, H, W].

    The empty text means no class, for networks that were trained with such a label.
    """

    takes_texts = True

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        raise NotImplementedError

    @property
    def no_class(self) -> int | None:
        """The label that means no class, None if there is none."""
        return None

    def condition(self, texts: Sequence[str]) -> Condition:
        """Return the labels [B] of classes that are given by their numbers. Raises BadConfig."""
        return {LABELS: torch.tensor([self._label(text) for text in texts])}

    def _label(self, text: str) -> int:
        if not text:
            if self.no_class is None:
                raise BadConfig(
                    "this model has no label for images without a class, which guidance and "
                    "dropped captions need\ntype: guidance_scale=null data.caption_dropout=0"
                )
            return self.no_class
        if not (text.isascii() and text.isdigit() and int(text) < self.num_classes):
            raise BadConfig(
                f"{text!r} is not a class of this model, which has the classes 0 to "
                f"{self.num_classes - 1}\n"
                "give captions or prompts that are numbers of classes, such as "
                "data=labelled_digits, prompts=digit_classes"
            )
        return int(text)
