"""Data sets from the `data` group, and images in the form that a model is trained on."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deme.data import Captioned, EncodedDataset, ImageData, Images, Masked
from deme.data.conditioned import ConditionedPixels
from deme.data.latents import CachedLatents
from deme.models.denoiser import DenoisingModel
from deme.models.latent import LatentModel
from deme.runs import PathsSettings, accepted_arguments, instantiate_with
from deme.system import BadConfig, cache_folder, logger


def load_data(
    option: Mapping[str, object] | None,
    paths: PathsSettings,
    image_shape: Sequence[int] | None = None,
    say: Callable[[str], object] = logger.info,
) -> ImageData | None:
    """Return the data set of a `data` option, None for data=none; `say` gets its description.

    If the option leaves size and channels open, `image_shape` (C, H, W), the image shape of a
    model, determines them. Raises the errors of the data set.
    """
    if not option:
        return None
    left_open = {
        name
        for name in ("size", "channels")
        if name in accepted_arguments(option) and option.get(name) is None
    }
    option = {name: value for name, value in option.items() if name not in left_open}
    if image_shape is not None:
        channels, height, width = image_shape
        known = {"channels": channels, "size": height if height == width else [height, width]}
        option |= {name: known[name] for name in left_open}
    data: ImageData = instantiate_with(option, cache=cache_folder(paths))
    say(f"data: {data.description}")
    return data


def check_images(data: ImageData, model: DenoisingModel) -> None:
    """Raise BadConfig unless the images have the model's shape, and captions if it takes them.

    Some of them must be held out.
    """
    if model.is_conditional and not isinstance(data.train, Captioned):
        raise BadConfig(
            "the model is conditioned on captions (texts, or numbers of classes), and the data set "
            "has no captions\ntype: data=captioned_images data.path=<folder with metadata.jsonl>, "
            "data=labelled_digits, or another data= with captions"
        )
    found, needed = tuple(data.train.__getitems__([0]).shape[1:]), tuple(model.image_shape)
    if found != needed:
        height, width = needed[1:]
        sides = height if height == width else f"[{height},{width}]"
        words = [f"data.channels={needed[0]}"] if found[0] != needed[0] else []
        words += [f"data.size={sides}"] if found[1:] != needed[1:] else []
        raise BadConfig(
            f"the data set has images of shape {found} (channels, height, width), "
            f"the model needs {needed}\n"
            f"type: {' '.join(words)}, or choose another model= or data="
        )
    if not len(data.held_out):
        raise BadConfig(
            f"none of {len(data.train):,} images can be held out: nearly all show one picture, "
            "and exact copies stay together\nadd different images"
        )


def encode_images(
    model: DenoisingModel,
    images: Images,
    device: str,
    cache: Path,
    data: ImageData | None = None,
) -> Images | EncodedDataset:
    """Return images as the model sees them: latents and text embeddings for a latent model.

    They are encoded once and kept in `cache`. `data` has the settings of training: whether images
    are mirrored, and the share of captions that is left out.
    """
    if not model.is_conditional:
        return images
    assert isinstance(images, Captioned)
    flip, dropout = (data.random_flip, data.caption_dropout) if data is not None else (False, 0.0)
    if not isinstance(model, LatentModel):
        return ConditionedPixels(images, model.condition, dropout)
    if model.takes_masks and not isinstance(images, Masked):
        raise BadConfig(
            f"a {model.pipeline} is an inpainting model, and the data set has no masks\n"
            "type: data=captioned_images data.masks=<folder with a mask of each image>"
        )
    if isinstance(images, Masked) and not model.takes_masks:
        raise BadConfig(
            f"a {model.pipeline} takes no masks, and data.masks is set\ntype: data.masks=null"
        )
    encoders = model.encoders.to(device)
    latents = CachedLatents(images, encoders, cache, flip, dropout)
    encoders.release()
    if cut := encoders.truncated(images.captions(list(range(len(images))))):
        logger.info(
            "%d of %d captions are longer than the text encoder's limit, and are truncated",
            cut,
            len(images),
        )
    return latents
