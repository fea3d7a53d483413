"""The format of files.yaml: the sources of the files that a suite reads (docs/prepare.md)."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from deme.runs.settings.base import STRICT, FileName, Line, Name, Pixels, Switch, key
from deme.runs.settings.suite_rows import Overrides
from deme.system import BadConfig, is_file_name

ROOTS = ("data", "models")  # keys of `paths`
KINDS = ("url", "hub", "by_hand", "make")  # where a file can come from
# keys that apply only to some of them
ABOUT = {
    "name": ("url", "by_hand"),
    "bytes": ("url", "by_hand"),
    "sha256": ("url", "by_hand"),
    "md5": ("url", "by_hand"),
    "unpack": ("url", "by_hand"),
    "convert": ("url", "by_hand"),
    "revision": ("hub",),
    "patterns": ("hub",),
    "needs": ("make",),
    "overrides": ("make",),
}


def _place(text: str) -> str:
    root, *parts = PurePosixPath(text).parts or ("",)
    if root not in ROOTS or not parts or ".." in parts or PurePosixPath(text).as_posix() != text:
        raise ValueError("data/<place> or models/<place>")
    return text


def _inside(text: str) -> str:
    if PurePosixPath(text).is_absolute() or ".." in PurePosixPath(text).parts:
        raise ValueError("a path inside of the folder")
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or re.search(r"\s", text):
        raise ValueError("an address that begins with http:// or https://")
    return text


def _repository(text: str) -> str:
    owner, _, name = text.partition("/")
    if not (is_file_name(owner) and is_file_name(name)):
        raise ValueError("<owner>/<name> on the Hugging Face Hub")
    return text


def _digest(length: int, least: int) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(rf"[0-9a-f]{{{least},{length}}}", text):
            raise ValueError(f"{least} to {length} digits 0-9a-f" if least < length else
                             f"{length} digits 0-9a-f")  # fmt: skip
        return text

    return AfterValidator(check)


Place = Annotated[str, AfterValidator(_place)]
Inside = Annotated[str, Field(min_length=1), AfterValidator(_inside)]
Bytes = Annotated[int, Field(ge=1, le=2**50, strict=True)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ConversionSettings:
    """Settings of `deme convert` for a checkpoint."""

    beta_schedule: Annotated[
        Literal["linear", "scaled_linear", "squaredcos_cap_v2"],
        key("Noise schedule of the model.", "scaled_linear"),
    ] = "linear"
    size: Annotated[
        Pixels | None, key("Pixels per side, if the checkpoint does not say so.", 256)
    ] = None
    ema: Annotated[
        Switch | None,
        key("Whether the weights are averaged, if the checkpoint does not say so.", False),
    ] = None
    config: Annotated[
        Name | None,
        key(
            "For a single-file checkpoint of Stable Diffusion: a pipeline's folder with the "
            "configs and the tokenizer; null: from the Hugging Face Hub.",
            "models/stable_diffusion",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SourceSettings:
    """One entry: a file or a folder that runs read, and how to obtain it."""

    what: Annotated[Line, key("Description of the file.", "EMA weights of DDPM on CIFAR-10")]
    place: Annotated[
        Place,
        key("Where runs look for it, below paths.data or paths.models.", "models/ddpm_ema_cifar10"),
    ]
    url: Annotated[
        Annotated[str, AfterValidator(_url)] | None,
        key("Address of the file.", "https://example.org/model-790000.ckpt"),
    ] = None
    hub: Annotated[
        Annotated[str, AfterValidator(_repository)] | None,
        key("Instead of url: a repository of models on the Hugging Face Hub.", "google/ddpm"),
    ] = None
    by_hand: Annotated[
        Line | None,
        key(
            "Instead of url: how a person gets a file that no program may download.", "Log in, ..."
        ),
    ] = None
    make: Annotated[
        Literal["stats", "safetensors", "imagenet_classes"] | None,
        key(
            "Instead of url: the file is made here, by `deme stats`, by writing the tensors of the "
            "file in `needs` as safetensors, or from torchvision's list of classes.",
            "stats",
        ),
    ] = None
    name: Annotated[
        FileName | None,
        key("Name of the downloaded file; default: the end of the address.", "model-790000.ckpt"),
    ] = None
    bytes: Annotated[
        Bytes | None, key("Its exact size, which is checked.", 170052171)
    ] = None  # fmt: skip
    about_bytes: Annotated[
        Bytes | None, key("If that is unknown, roughly the bytes that are downloaded.", 143_000_000)
    ] = None  # fmt: skip
    disk_bytes: Annotated[
        Bytes | None,
        key("Roughly the bytes at `place` in the end, if they differ.", 20_000_000_000),
    ] = None
    sha256: Annotated[
        Annotated[str, _digest(64, 8)] | None,
        key("Checksum of the downloaded file: all digits or the first ones.", "6726825d"),
    ] = None
    md5: Annotated[
        Annotated[str, _digest(32, 32)] | None,
        key("Checksum of the downloaded file, if no sha256 is published.", "c32a1d4ab5d0..."),
    ] = None
    revision: Annotated[
        FileName | None,
        key("Commit of the repository; default: the newest.", "267b167dc01f..."),
    ] = None
    patterns: Annotated[
        tuple[Name, ...],
        key(
            "Glob patterns of the repository's files that are needed.", ["*.json", "*.safetensors"]
        ),
    ] = ()
    unpack: Annotated[Switch, key("Whether it is an archive to unpack.", True)] = False
    convert: Annotated[
        ConversionSettings | None,
        key("Settings of `deme convert`, for a checkpoint of the original layout.", {"ema": True}),
    ] = None
    holds: Annotated[
        tuple[Inside, ...],
        key("Files that the folder must contain to be complete.", ["data.mdb"]),
    ] = ()
    needs: Annotated[
        tuple[Name, ...], key("Entries from which this one is made.", ["inception"])
    ] = ()  # fmt: skip
    overrides: Annotated[
        Overrides,
        key(
            "Settings of `deme stats`, for make: stats.",
            ["data=image_folder", "metrics=fid_pytorch"],
        ),
    ] = ()
    weights: Annotated[
        Literal["ema", "raw"] | None,
        key("For a model: the kind of weights that its passport must state.", "ema"),
    ] = None
    licence: Annotated[Line | None, key("Licence of the file, and its licensor.", "Apache-2.0")] = (
        None
    )
    accept: Annotated[
        Line | None, key("Terms that a person has to accept, and where.", "at the Hub, ...")
    ] = None
    source: Annotated[
        Line | None,
        key("Where these facts are published.", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    ] = None
    tried: Annotated[
        Switch, key("Whether it has been fetched with these settings.", False)
    ] = False  # fmt: skip

    def __post_init__(self) -> None:
        for mistake in self._mistakes():
            raise BadConfig(mistake)

    def _mistakes(self) -> Iterator[str]:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            listed = ", ".join(given) or "none"
            yield f"exactly one of {', '.join(KINDS)} must be given; got {listed}"
            return
        for name, kinds in ABOUT.items():
            if getattr(self, name) not in (None, (), False) and given[0] not in kinds:
                yield f"{name} has no meaning with {given[0]}; it belongs to {' or '.join(kinds)}"
        if self.unpack and self.convert is not None:
            yield "unpack and convert exclude each other"
        if self.url is not None and not is_file_name(self.file_name):
            yield "name must be given: the address does not end with a name"
        if self.by_hand is not None and self.name is None:
            yield "name must be given: that of the file"
        if self.make == "stats" and not self.overrides:
            yield "overrides must be given: those of deme stats"
        if self.make == "safetensors" and len(self.needs) != 1:
            yield "needs must name the entry whose tensors are written"
        if self.make is None and self.licence is None:
            yield 'licence must be given; "none stated" if its publisher states none'

    @property
    def file_name(self) -> str:
        """The name of the download: of a file, or of the folder of a repository."""
        if self.name is not None:
            return self.name
        return PurePosixPath(urlsplit(self.url).path if self.url else self.place).name

    @property
    def is_one_file(self) -> bool:
        """Whether the download is one file, which may have a known size and checksum."""
        return self.url is not None or self.by_hand is not None

    @property
    def is_left_as_it_is(self) -> bool:
        """Whether the download is used without unpacking or conversion."""
        return self.is_one_file and not self.unpack and self.convert is None

    @property
    def root(self) -> str:
        """The key of `paths` that contains the place: data or models."""
        return PurePosixPath(self.place).parts[0]

    @property
    def below(self) -> str:
        """The place relative to that folder."""
        return PurePosixPath(*PurePosixPath(self.place).parts[1:]).as_posix()

    @property
    def download(self) -> int | None:
        """The approximate number of bytes to download, None if unknown."""
        return self.bytes if self.bytes is not None else self.about_bytes

    @property
    def kept(self) -> int | None:
        """The approximate number of bytes at the place after installation."""
        return self.disk_bytes if self.disk_bytes is not None else self.download
