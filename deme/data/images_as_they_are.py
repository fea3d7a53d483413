"""A folder of images of one size, to be measured as they are."""

from pathlib import Path

from PIL import Image
from torch import Tensor

from deme.data.decode import Unreadable, opened, pixels_of
from deme.data.encoded import ReadAsNeeded
from deme.data.image_files import ImageFiles
from deme.system.errors import BadConfig, WorkFailed


class ImagesAsTheyAre(ReadAsNeeded):
    """Image files of one size, neither resized nor cropped: uint8 [1 or 3, H, W], grey if the first is grey."""

    def __init__(self, source: ImageFiles) -> None:
        super().__init__(source, range(len(source)))
        first = self._opened(0, None)
        self.size, self.channels = first.size, len(first.getbands())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self.channels, self.size[1], self.size[0]

    @property
    def how(self) -> str:
        return f"as it is, {self.channels} channels"

    def read(self, index: int) -> Tensor:
        """Return one image. Raises BadConfig for one of another size."""
        image, name = self._opened(index, self.channels), self.source.name(index)
        if image.size != self.size:
            raise BadConfig(
                f"{name} has {image.width} x {image.height} pixels, {self.source.name(0)} {self.size[0]} x {self.size[1]}\n"
                "generated images are measured as they are: give a folder of images of one size"
            )
        return pixels_of(image)

    def _opened(self, index: int, channels: int | None) -> Image.Image:
        try:
            return opened(self.source.read(index), self.source.name(index), channels)
        except Unreadable as error:
            raise WorkFailed(
                f"{error.name} is not an image that can be read: {error.reason}\nmove it out of the folder"
            ) from error


def folder_as_it_is(folder: Path) -> ImagesAsTheyAre:
    """Return the images below a folder for measuring them. Raises MissingInput for an empty one."""
    return ImagesAsTheyAre(ImageFiles.below(folder))
