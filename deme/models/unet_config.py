"""The config of a UNet: refuse what cannot be trained here."""

from deme.models.layout import JsonObject
from deme.system import BadConfig


def check_unet(path: str, unet: JsonObject, default_channels: int) -> None:
    """Raise BadConfig for a UNet that cannot be trained here, whatever it is conditioned on.

    `default_channels` is what diffusers takes for a number of channels that the config leaves out.
    """
    if unet.get("class_embed_type") is not None:
        raise BadConfig(
            f"{path} has class_embed_type={unet.get('class_embed_type')}; only class labels "
            "(num_class_embeds alone) can be trained with here"
        )
    taken, returned = (unet.get(n, default_channels) for n in ("in_channels", "out_channels"))
    if not isinstance(taken, int) or returned not in (taken, 2 * taken):
        raise BadConfig(
            f"{path} has a UNet of {taken} channels in and {returned} out (in_channels, "
            "out_channels), as for inpainting or depth; they must be equal, or twice as many out "
            "with a learned variance"
        )
    if unet.get("sample_size") is None:
        raise BadConfig(
            f"{path} does not say the size of what it makes\n"
            "set sample_size in the config.json of its UNet, such as 32 (pixels) or 64 (latents)"
        )
