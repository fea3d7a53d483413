"""What the configs of networks and schedulers may hold that diffusers or transformers wrote.

The same bounds hold for what a configuration of deme says of a network (conf/model).
"""

from typing import Annotated

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

Channels = Annotated[int, Field(ge=1, le=1 << 14)]
Size = Annotated[int, Field(ge=1, le=1 << 16)]
Layers = Annotated[int, Field(ge=1, le=64)]
Text = Annotated[str, Field(max_length=300)]
Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Positive = Annotated[float, Field(gt=0, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]


class NetworkConfig(TypedDict, total=False):
    """config.json of a network that diffusers or transformers wrote: the keys that are used here.

    What diffusers makes of the others is caught where it is made.
    """

    _class_name: Text | None
    architectures: list[Text] | None
    sample_size: Size | Annotated[list[Size], Field(min_length=2, max_length=2)] | None
    in_channels: Channels | None
    out_channels: Channels | None
    latent_channels: Channels | None
    layers_per_block: Layers | list[Layers]
    block_out_channels: Annotated[list[Channels], Field(min_length=1, max_length=16)]
    time_embedding_type: Text
    cross_attention_dim: Channels | list[Channels] | None
    scaling_factor: Positive | None
    shift_factor: Number | None
    encoder_block_out_channels: Annotated[list[Channels], Field(min_length=1, max_length=16)]
    max_position_embeddings: Size
    hidden_size: Size
    num_hidden_layers: Layers
    num_layers: Layers | None
    projection_dim: Size | None
    vocab_size: Annotated[int, Field(ge=1, le=1 << 20)]


class SchedulerConfig(TypedDict, total=False):
    """scheduler_config.json: the keys that are used here."""

    _class_name: Text
    num_train_timesteps: Annotated[int, Field(ge=1, le=1_000_000)]
    beta_start: Number
    beta_end: Number
    beta_schedule: Text
    trained_betas: list[Number] | None
    prediction_type: Text | None
    variance_type: Text | None
    predict_epsilon: bool | None
    use_flow_sigmas: bool | None
    flow_shift: Positive | None
    shift: Positive | None
    use_dynamic_shifting: bool | None
    base_shift: Number | None
    max_shift: Number | None
    base_image_seq_len: Size
    max_image_seq_len: Size
    invert_sigmas: bool | None
    shift_terminal: Share | None
    stochastic_sampling: bool | None
    rescale_betas_zero_snr: bool
    clip_sample: bool
    clip_sample_range: Positive
    thresholding: bool
    dynamic_thresholding_ratio: Share
    sample_max_value: Positive
    set_alpha_to_one: bool
    steps_offset: Annotated[int, Field(ge=-1_000_000, le=1_000_000)]
    timestep_spacing: Text


class NetworkArguments(NetworkConfig, total=False):
    """Further arguments of diffusers' UNet2DModel, as options in conf/model give them."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    add_attention: bool
    attention_head_dim: Channels | list[Channels] | None
    downsample_padding: Annotated[int, Field(ge=0, le=64)]
    dropout: Share
    flip_sin_to_cos: bool
    freq_shift: Number
    norm_eps: Annotated[float, Field(gt=0, le=1)]
    norm_num_groups: Channels | None


class SchedulerArguments(SchedulerConfig, total=False):
    """Arguments of diffusers' DDPMScheduler, as options in conf/model give them."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    beta_start: Share
    beta_end: Share
