"""Images with captions: a folder with metadata, COCO's annotations, a Hugging Face data set."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deme.data import ImageData
from deme.data.caption_files import METADATA, captions_in
from deme.data.dataset_rows import DatasetRows, is_dataset
from deme.data.decode import BACKGROUND
from deme.data.encoded import ImageSource
from deme.data.image_files import ChosenFiles, ImageFiles, size_of
from deme.data.image_folder import make_preprocessing
from deme.data.split_dataset import split_dataset
from deme.system import DATASETS, BadConfig, MissingInput, locate, logger

# Encoded images, their captions ("" where there is none), and by description the names of images
# or captions that do not fit together
Pairs = tuple[ImageSource, list[str], dict[str, list[str]]]


def check_dropout(share: float) -> float:
    """Return a share of captions to drop. Raises BadConfig unless it lies in [0, 1]."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise BadConfig(f"data.caption_dropout must be a share in [0, 1], got {share!r}")
    return float(share)


def load_captioned_images(
    path: str,
    captions: str | None = None,
    caption_column: str | None = None,
    size: int | Sequence[int] | None = None,
    channels: int | None = 3,
    resize: str = "bicubic",
    crop: str = "center",
    held_out_fraction: float = 0.01,
    random_flip: bool = False,
    caption_dropout: float = 0.1,
    corrupt: str = "refuse",
    in_memory: bool | None = None,
    background: str = BACKGROUND,
    masks: str | None = None,
    cache: Path | None = None,
) -> ImageData:
    """Return the images of `path` with their captions; a fixed random share of them is held out.

    `captions` is a file: COCO's annotations or rows {file_name, caption}; None means the folder's
    metadata or the data set's column. If an image has several captions, the first is used. Images
    without a caption and captions without an image are an error, or are left out with `corrupt`
    "skip". `masks` is a folder with a mask for each image, of the same path but for the suffix.
    Raises BadConfig, MissingInput, WorkFailed.
    """
    if crop == "random":
        raise BadConfig(
            "data.crop=random: captioned images are encoded once, so they have one crop each\n"
            "type: data.crop=center"
        )
    dropout = check_dropout(caption_dropout)
    preprocessing = make_preprocessing(size, channels, resize, crop, background)
    source, texts, wrong = _pairs_at(path, captions, caption_column)
    mismatches = [
        f"{what}: {len(names):,}, the first: {names[0]}" for what, names in wrong.items() if names
    ]
    if mismatches and corrupt != "skip":
        raise MissingInput(f"{mismatches[0]}\ncorrect that, or leave them out: data.corrupt=skip")
    for mismatch in mismatches:
        logger.info(f"{mismatch}; left out")
    data = split_dataset(
        source,
        preprocessing,
        held_out_fraction,
        random_flip,
        corrupt,
        in_memory,
        cache,
        captions=texts,
        masks=_masks_at(masks, path, source) if masks is not None else None,
    )
    return replace(data, caption_dropout=dropout)


def _masks_at(masks: str, path: str, source: ImageSource) -> ImageSource:
    """Return the masks of a folder's images, in their order. Raises BadConfig, MissingInput."""
    if not isinstance(source, ImageFiles):
        raise BadConfig(
            f"data.masks={masks} needs a folder of images, which {path} is not\n"
            "type: data.masks=null"
        )
    folder = locate(masks)
    own = {file.relative_to(folder).with_suffix(""): file for file in ImageFiles(folder).files}
    wanted = [file.relative_to(source.folder).with_suffix("") for file in source.files]
    if missing := [name for name in wanted if name not in own]:
        raise MissingInput(
            f"{folder} lacks the masks of {len(missing):,} of {len(wanted):,} images, the first: "
            f"{missing[0]}.<suffix>\n"
            "a mask has the path of its image, but for the suffix; it is white where the image is "
            "to be filled in"
        )
    chosen = [own[name] for name in wanted]
    for file, mask in zip(source.files, chosen, strict=True):
        (width, height), (other_width, other_height) = size_of(file), size_of(mask)
        if abs(width * other_height - height * other_width) > max(width, height):
            raise BadConfig(
                f"{file} has {width} x {height} pixels, and its mask {mask} {other_width} x "
                f"{other_height}: they would be cropped differently\n"
                "a mask has the aspect ratio of its image"
            )
    return ChosenFiles(chosen)


def _pairs_at(path: str, captions: str | None, column: str | None) -> Pairs:
    """Return the images at `path` with their captions.

    Raises BadConfig, MissingInput, WorkFailed.
    """
    folder = None if path.startswith(DATASETS) else locate(path)
    if captions is not None:
        if folder is None or not folder.is_dir():
            raise BadConfig(
                f"data.captions={captions} needs a folder of images, which {path} is not\n"
                "type: data.captions=null"
            )
        return _in_files(folder, locate(captions), column)
    # each split in the layout of Hugging Face's imagefolder has its own metadata
    for place in () if folder is None else (folder, folder / "train"):
        for name in METADATA:
            if (place / name).is_file():
                return _in_files(place, place / name, column)
    if folder is not None and not is_dataset(folder):
        raise MissingInput(
            f"{path} holds no captions: neither {' nor '.join(METADATA)}, "
            "nor a Hugging Face data set\n"
            "type: data.captions=<file>, COCO's annotations or a table with the columns "
            "file_name and caption"
        )
    rows = DatasetRows.on_hub(path) if folder is None else DatasetRows.in_folder(folder)
    texts = rows.captions(column)
    empty = [rows.name(index) for index, text in enumerate(texts) if not text]
    return rows, texts, {f"empty captions in {path}": empty}


def _in_files(folder: Path, file: Path, column: str | None) -> Pairs:
    source, found = ImageFiles(folder, used=[file]), captions_in(file, column)
    first: dict[str, str] = {}
    for name, caption in found:
        first.setdefault(name, caption)
    if len(found) > len(first):
        logger.info(
            f"{len(found) - len(first):,} further captions in {file} are left out: "
            "the first of each image is used"
        )
    names = [place.relative_to(folder).as_posix() for place in source.files]
    present = set(names)
    wrong = {
        f"captions in {file} of images that {folder} does not hold": [
            name for name in first if name not in present
        ],
        f"images in {folder} without a caption in {file}": [
            name for name in names if name not in first
        ],
        f"empty captions in {file}": [name for name in names if first.get(name) == ""],
    }
    return source, [first.get(name, "") for name in names], wrong
