"""Images with captions: a folder with metadata, COCO's images and annotations, a Hugging Face data set."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from deme.data import ImageData, Images
from deme.data.caption_files import METADATA, captions_in
from deme.data.captioned_rows import row_captions
from deme.data.dataset_rows import DatasetRows, is_dataset
from deme.data.decoded_once import DecodedOnce, Say
from deme.data.encoded import EncodedImages, Source
from deme.data.encoded_data import encoded_data, quiet
from deme.data.image_files import ImageFiles
from deme.data.image_folder import rules_of
from deme.system.errors import BadConfig, MissingInput
from deme.system.files import sha256_text
from deme.system.paths import DATASETS, locate


class CaptionedImages:
    """Images of another set with a caption each; the hash covers both."""

    def __init__(self, images: Images, captions: list[str]) -> None:
        assert len(images) == len(captions)
        self.images, self._captions = images, captions

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Tensor:
        return self.images.__getitems__(indices)

    def captions(self, indices: list[int]) -> list[str]:
        return [self._captions[index] for index in indices]

    def content_hash(self) -> str:
        return sha256_text(json.dumps([self.images.content_hash(), *self._captions]))


@dataclass(frozen=True)
class Pairs:
    """Encoded images and their captions, "" where there is none; `complaints` says what does not pair up."""

    source: Source
    captions: list[str]
    complaints: list[str]


def checked_dropout(share: float) -> float:
    """Return a share of captions to leave out. Raises BadConfig unless it lies in [0, 1]."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise BadConfig(f"data.caption_dropout must be a share in [0, 1], got {share!r}")
    return float(share)


def load_captioned_images(
    path: str,
    captions: str | None = None,
    caption_column: str | None = None,
    size: int | None = None,
    channels: int | None = 3,
    resize: str = "bicubic",
    crop: str = "center",
    held_out_fraction: float = 0.01,
    random_flip: bool = True,
    caption_dropout: float = 0.1,
    corrupt: str = "refuse",
    in_memory: bool | None = None,
    cache: Path | None = None,
    say: Say = quiet,
) -> ImageData:
    """Return the images of `path` with their captions, a random but fixed share of them held out, as `load_image_folder` does.

    `captions`: a file of them, COCO's annotations or {file_name, caption} rows; None for the folder's metadata or a data set's
    column. Of several captions of an image the first is used. What does not pair up is refused, or left out with
    `corrupt` "skip". Raises BadConfig, MissingInput, WorkFailed.
    """
    if crop == "random":
        raise BadConfig(
            "data.crop=random: captioned images are encoded once, so they are cut once\ntype: data.crop=center"
        )
    dropout = checked_dropout(caption_dropout)
    rules = rules_of(size, channels, resize, crop)
    pairs = pairs_at(path, captions, caption_column, say)
    if pairs.complaints and corrupt != "skip":
        raise MissingInput(
            f"{pairs.complaints[0]}\nmend that, or leave them out: data.corrupt=skip"
        )
    for complaint in pairs.complaints:
        say(f"{complaint}; left out")
    without = [index for index, caption in enumerate(pairs.captions) if not caption]
    data = encoded_data(
        pairs.source,
        rules,
        held_out_fraction,
        random_flip,
        corrupt,
        in_memory,
        cache,
        say,
        left_out=without,
    )
    train, held_out = (_with_captions(side, pairs.captions) for side in (data.train, data.held_out))
    return replace(data, train=train, held_out=held_out, caption_dropout=dropout)


def _with_captions(images: Images, captions: list[str]) -> CaptionedImages:
    encoded = images.images if isinstance(images, DecodedOnce) else images
    assert isinstance(encoded, EncodedImages)
    return CaptionedImages(images, [captions[index] for index in encoded.indices])


def pairs_at(path: str, captions: str | None, column: str | None, say: Say) -> Pairs:
    """Return what lies at `path` with its captions. Raises BadConfig, MissingInput, WorkFailed."""
    folder = None if path.startswith(DATASETS) else locate(path)
    if captions is not None:
        if folder is None or not folder.is_dir():
            raise BadConfig(
                f"data.captions={captions} goes with a folder of images, {path} is none\ntype: data.captions=null"
            )
        return _files(folder, locate(captions), column, say)
    for place in (
        () if folder is None else (folder, folder / "train")
    ):  # imagefolder's splits have metadata each
        for name in METADATA:
            if (place / name).is_file():
                return _files(place, place / name, column, say)
    if folder is not None and not is_dataset(folder):
        raise MissingInput(
            f"{path} holds no captions: neither {' nor '.join(METADATA)}, nor a Hugging Face data set\n"
            "type: data.captions=<file>, COCO's annotations or a table with the columns file_name and caption"
        )
    rows = DatasetRows.on_hub(path) if folder is None else DatasetRows.in_folder(folder)
    texts = row_captions(rows, column, say)
    empty = [rows.name(index) for index, text in enumerate(texts) if not text]
    return Pairs(rows, texts, _complaints((f"empty captions in {path}", empty)))


def _files(folder: Path, file: Path, column: str | None, say: Say) -> Pairs:
    source, found = ImageFiles.below(folder), captions_in(file, column)
    if found.further:
        say(
            f"{found.further:,} further captions in {file} are left out: the first of each image is used"
        )
    names = [place.relative_to(folder).as_posix() for place in source.files]
    here = set(names)
    complaints = _complaints(
        (
            f"captions in {file} of images that {folder} does not hold",
            [n for n in found.by_name if n not in here],
        ),
        (
            f"images in {folder} without a caption in {file}",
            [n for n in names if n not in found.by_name],
        ),
        (f"empty captions in {file}", [n for n in names if found.by_name.get(n) == ""]),
    )
    return Pairs(source, [found.by_name.get(name, "") for name in names], complaints)


def _complaints(*found: tuple[str, list[str]]) -> list[str]:
    return [f"{what}: {len(names):,}, the first: {names[0]}" for what, names in found if names]
