"""Which kind of source a path names: found by looking."""

from pathlib import Path

from deme.data.dataset_rows import DatasetRows, is_dataset
from deme.data.encoded import Source
from deme.data.image_files import SUFFIXES, ImageFiles
from deme.data.lmdb_images import FILE, LmdbImages
from deme.system.errors import MissingInput
from deme.system.paths import DATASETS, locate


def source_at(path: str) -> Source:
    """Return the encoded images at `path`: an LMDB, a Hugging Face data set (a folder, or datasets:owner/name on the Hub), or a
    folder of image files. Raises MissingInput for none of them."""
    if path.startswith(DATASETS):
        return DatasetRows.on_hub(path)
    folder = locate(path)
    if (folder / FILE).is_file():
        return LmdbImages(folder)
    if _has_images(folder):
        return ImageFiles.below(folder)
    if is_dataset(folder):
        return DatasetRows.in_folder(folder)
    inside = sorted(str(place.parent) for place in folder.glob(f"*/{FILE}"))
    raise MissingInput(
        f"{path} holds no images ({', '.join(SUFFIXES)}), no LMDB ({FILE}) and no Hugging Face data set"
        + (f"\ndid you mean data.path={inside[0]}?" if inside else "")
    )


def _has_images(folder: Path) -> bool:
    return any(place.suffix.lower() in SUFFIXES for place in folder.rglob("*"))
