"""Class-conditional models; a class is given by its number as a text, "0", "1", ..."""

from collections.abc import Sequence

import torch

from deme.diffusion import Condition
from deme.models.denoiser import DenoisingModel
from deme.models.network_inputs import Row
from deme.system import BadConfig

LABELS = "class_labels"  # the networks' argument
LABEL: Row = ((), torch.int64)  # of one image


class ClassConditionalModel(DenoisingModel):
    """`model(x_t [B, C, H, W], t [B], {"class_labels": [B]})` returns the prediction [B, C, H, W].

    The empty text means no class, for networks that were trained with such a label.
    """

    is_conditional = True

    example_text = "0"

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        raise NotImplementedError

    @property
    def null_class(self) -> int | None:
        """The label that means no class, None if there is none."""
        return None

    @property
    def is_guidable(self) -> bool:
        """Whether it predicts without a class, too, as classifier-free guidance needs."""
        return self.null_class is not None

    def condition(self, texts: Sequence[str]) -> Condition:
        """Return the labels [B] of classes that are given by their numbers. Raises BadConfig."""
        labels = [self._label(text) for text in texts]
        return {LABELS: torch.tensor(labels, device=self.network.device)}

    def _label(self, text: str) -> int:
        if not text:
            if self.null_class is None:
                raise BadConfig(
                    "this model has no label for images without a class, which classifier-free "
                    "guidance and caption dropout need\n"
                    "type: data.caption_dropout=0 to train, guidance_scale=1 to generate images"
                )
            return self.null_class
        if not (text.isascii() and text.isdigit() and int(text) < self.num_classes):
            raise BadConfig(
                f"{text!r} is not a class of this model, which has the classes 0 to "
                f"{self.num_classes - 1}\n"
                "give captions or prompts that are numbers of classes, such as "
                "data=labelled_digits, prompts=digit_classes"
            )
        return int(text)
