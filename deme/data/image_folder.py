"""Any encoded images: a folder of files, an LMDB in LSUN's format, a Hugging Face data set."""

from collections.abc import Sequence
from pathlib import Path

from deme.data import ImageData
from deme.data.dataset_rows import DatasetRows, is_dataset
from deme.data.decode import BACKGROUND, Preprocessing
from deme.data.encoded import ImageSource
from deme.data.image_files import SUFFIXES, ImageFiles, is_image
from deme.data.lmdb_images import FILE, LmdbImages
from deme.data.split_dataset import split_dataset
from deme.system import DATASETS, BadConfig, MissingInput, list_files, locate


def load_image_folder(
    path: str,
    size: int | Sequence[int] | None = None,
    channels: int | None = None,
    resize: str = "bicubic",
    crop: str = "center",
    held_out_fraction: float = 0.1,
    random_flip: bool = False,
    corrupt: str = "refuse",
    in_memory: bool | None = None,
    background: str = BACKGROUND,
    cache: Path | None = None,
) -> ImageData:
    """Return the images of `path`; a fixed random share of them is held out.

    `size` (pixels per side, or height and width) and `channels` (1 or 3) must be given here;
    builders take them from the model. Raises MissingInput if there are no images or the library
    that reads them is missing, BadConfig if there are too few images to split.
    """
    preprocessing = make_preprocessing(size, channels, resize, crop, background)
    return split_dataset(
        source_at(path), preprocessing, held_out_fraction, random_flip, corrupt, in_memory, cache
    )


def make_preprocessing(
    size: int | Sequence[int] | None, channels: int | None, resize: str, crop: str, background: str
) -> Preprocessing:
    """Return the preprocessing of these settings. Raises BadConfig if size or channels is None."""
    if size is None or channels is None:
        known = {"data.size": size, "data.channels": channels}
        missing = [name for name, value in known.items() if value is None]
        raise BadConfig(
            f"{', '.join(missing)} must be given, because no model determines it\n"
            f"type: {' '.join(f'{name}=<value>' for name in missing)}"
        )
    return Preprocessing(size, channels, resize, crop, background)


def source_at(path: str) -> ImageSource:
    """Return the encoded images at `path`, whose kind is found by looking.

    An LMDB, a folder of image files, or a Hugging Face data set (a folder, or datasets:owner/name
    on the Hub). Raises MissingInput for none of them.
    """
    if path.startswith(DATASETS):
        return DatasetRows.on_hub(path)
    folder = locate(path)
    if not folder.is_dir():
        raise MissingInput(
            f"{path} is a file; data.path is a folder, or {DATASETS}<owner>/<name>\n"
            "unpack an archive first, and give the folder"
        )
    if (folder / FILE).is_file():
        return LmdbImages(folder)
    listing = list_files(folder)
    if any(map(is_image, listing.files)):
        return ImageFiles(folder, listing)
    if is_dataset(folder):
        return DatasetRows.in_folder(folder)
    inside = sorted(str(place.parent) for place in folder.glob(f"*/{FILE}"))
    raise MissingInput(
        f"{path} holds no images ({', '.join(SUFFIXES)}), "
        f"no LMDB ({FILE}) and no Hugging Face data set"
        + (f"\ndid you mean data.path={inside[0]}?" if inside else "")
    )
