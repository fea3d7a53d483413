"""Pictures inside a page, reduced in size where the page would become too large."""

import io
from dataclasses import dataclass

from PIL import Image

from deme.report.page.html import data_url

BUDGET = 3_500_000  # bytes of all pictures of a page, before base64 encoding adds a third
LARGEST = 1024  # pixels per side
PIXEL_ART = 320  # a grid of at most this width is shown with sharp pixels


@dataclass(frozen=True)
class Picture:
    """A grid of images of one model, or a figure."""

    label: str
    group: str  # the base, where there are several
    url: str
    width: int
    height: int

    @property
    def is_small(self) -> bool:
        """Whether the picture is shown with sharp pixels."""
        return self.width <= PIXEL_ART


def fitted(label: str, group: str, image: Image.Image, num_pictures: int) -> Picture:
    """Return one of `num_pictures` pictures of a page, reduced so that all fit into the budget."""
    image = image.convert("L" if image.mode in ("1", "L", "I", "I;16") else "RGB")
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    content, kind = _encoded(image, "PNG"), "image/png"
    for quality in (92, 85, 75, 60, 40):
        if len(content) <= BUDGET // num_pictures:
            break
        content, kind = _encoded(image, "WEBP", quality=quality), "image/webp"
    return Picture(label, group, data_url(content, kind), *image.size)


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
