"""`digit_agreement`: how often a classifier of digits recognises the digit that the text names."""

from collections.abc import Sequence

import torch
from torch import Tensor

from deme.data.captioned_digits import digit_in
from deme.metrics.digit_classifier import as_digits, load_classifier
from deme.metrics.text_score import TextScore
from deme.system import BadConfig


class DigitAgreement(TextScore):
    """Score an image 1 if the classifier's largest logit is that of the digit in its text, else 0.

    It takes uint8 images [B, 3, 16, 16] or [B, 1, 8, 8], whose features are 10 logits. The
    classifier was trained on the training images, without captions and independently of every
    generator. Raises BadConfig for a text that does not name exactly one digit.
    """

    name = "digit classifier, first of 10 logits against the digit that the text names"
    score_name = suffix = "digit_agreement"
    dimension = 10

    def __init__(self, path: str, sha256: str | None = None) -> None:
        self.network, self.weights = load_classifier(path, sha256)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        return self.network(as_digits(pixels.to(self.device), self.score_name)).cpu()

    def score(self, features: Tensor, texts: Sequence[str]) -> Tensor:
        if len(features) != len(texts):
            raise ValueError(
                f"{len(features)} images and {len(texts)} texts: each image needs one text"
            )
        return (features.argmax(1) == torch.tensor(self._named(texts), dtype=torch.long)).double()

    def truncated(self, texts: Sequence[str]) -> int:
        self._named(texts)  # no network reads them
        return 0

    def _named(self, texts: Sequence[str]) -> list[int]:
        digits = [digit_in(text) for text in texts]
        if None in digits:
            raise BadConfig(
                f"{self.score_name} needs texts that name exactly one digit, "
                f"got {texts[digits.index(None)]!r}\n"
                "type: metrics.scores.digit_agreement=null"
            )
        return [digit for digit in digits if digit is not None]
