"""A folder of images of one size, measured as they are."""

from pathlib import Path

from PIL import Image
from torch import Tensor

from deme.data.decode import TooDeep, Unreadable, image_to_tensor, open_image
from deme.data.encoded import LazyImages
from deme.data.image_files import ImageFiles
from deme.system import BadConfig, WorkFailed


class RawImageFolder(LazyImages):
    """Image files of one size, neither resized nor cropped: uint8 [1 or 3, H, W], the `shape`.

    Grey if the first image is grey; transparent pixels are on white. Raises MissingInput for a
    folder without images.
    """

    def __init__(self, folder: Path) -> None:
        source = ImageFiles(folder)
        super().__init__(source, range(len(source)))
        first = self._open(0, None)
        self.shape = len(first.getbands()), first.height, first.width
        self.description = f"as it is, {self.shape[0]} channels"

    def read(self, index: int) -> Tensor:
        """Return one image. Raises BadConfig for one of another size."""
        channels, height, width = self.shape
        image = self._open(index, channels)
        if image.size != (width, height):
            raise BadConfig(
                f"{self.source.name(index)} has {image.width} x {image.height} pixels, "
                f"{self.source.name(0)} {width} x {height}\n"
                "generated images are measured as they are: give a folder of images of one size"
            )
        return image_to_tensor(image)

    def _open(self, index: int, channels: int | None) -> Image.Image:
        try:
            return open_image(self.source.read(index), self.source.name(index), channels)
        except TooDeep as error:
            raise BadConfig(
                f"{error.name} has {error.reason}\nconvert it to 8 bits first"
            ) from error
        except Unreadable as error:
            raise WorkFailed(
                f"{error.name} is not an image that can be read: {error.reason}\n"
                "move it out of the folder"
            ) from error
