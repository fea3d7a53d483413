"""Tiny random pipelines of diffusers, one for each family of latent models."""

from pathlib import Path

import diffusers
import torch
import transformers

from deme.system.paths import locate

CLIP = locate("asset:captioned_digits") / "tokenizer"
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789 ,."]


def clip(projection=True):
    tokenizer = transformers.CLIPTokenizer.from_pretrained(CLIP)
    config = transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, vocab_size=len(tokenizer) + 8,
        projection_dim=32, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, max_position_embeddings=77)  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(config).eval(), tokenizer


def letters(kind, words, **names):
    """A tokenizer of letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = [*words, *LETTERS, "\u2581"]
    tokenizer = Tokenizer(models.Unigram([(p, -float(i)) for i, p in enumerate(pieces)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {words[1]}", special_tokens=[(words[1], 1)]
    )
    return kind(
        tokenizer_object=tokenizer,
        pad_token=words[0],
        eos_token=words[1],
        unk_token=words[2],
        **names,
    ), len(pieces)


def t5():
    tokenizer, size = letters(transformers.T5TokenizerFast, ["<pad>", "</s>", "<unk>"], extra_ids=0)
    config = transformers.T5Config(
        vocab_size=size + 8, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4
    )
    return transformers.T5EncoderModel(config).eval(), tokenizer


def gemma():
    tokenizer, size = letters(
        transformers.GemmaTokenizerFast, ["<pad>", "<eos>", "<unk>", "<bos>"], bos_token="<bos>"
    )
    config = transformers.Gemma2Config(
        head_dim=16, hidden_size=32, initializer_range=0.02, intermediate_size=64, max_position_embeddings=512,
        num_attention_heads=2, num_hidden_layers=1, num_key_value_heads=2, vocab_size=size + 8)  # fmt: skip
    return transformers.Gemma2Model(config).eval(), tokenizer


def autoencoder(channels=4, **more):
    return diffusers.AutoencoderKL(
        sample_size=32, in_channels=3, out_channels=3, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2,
        latent_channels=channels, down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        **more).eval()  # fmt: skip


def sd3():
    (one, first), (two, second), (three, third) = clip(), clip(), t5()
    network = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=64,
        pos_embed_max_size=16)  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        network, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), autoencoder(4, shift_factor=0.06, scaling_factor=1.5),
        one, first, two, second, three, third)  # fmt: skip


def pixart_sigma():
    encoder, tokenizer = t5()
    network = diffusers.PixArtTransformer2DModel(
        sample_size=16, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=4, caption_channels=32,
        in_channels=4, cross_attention_dim=32, out_channels=8, use_additional_conditions=False, norm_type="ada_norm_single")  # fmt: skip
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    return diffusers.PixArtSigmaPipeline(
        tokenizer, encoder, autoencoder(4, scaling_factor=0.3), network, scheduler
    )


def sana():
    encoder, tokenizer = gemma()
    network = diffusers.SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=32, sample_size=16)  # fmt: skip
    vae = diffusers.AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=[1, 1], downsample_block_type="conv",
        upsample_block_type="interpolate", decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407)  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return diffusers.SanaPipeline(tokenizer, encoder, vae.eval(), network, scheduler)


def sdxl():
    (one, first), (two, second) = clip(projection=False), clip()
    network = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 1), projection_class_embeddings_input_dim=32 + 6 * 8, cross_attention_dim=64)  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1, set_alpha_to_one=False)  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        autoencoder(4, scaling_factor=0.13), one, two, first, second, network, scheduler, add_watermarker=False)  # fmt: skip


def flux():
    (one, first), (two, second) = clip(projection=False), t5()
    network = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8], guidance_embeds=True)  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_image_seq_len=16, max_image_seq_len=256
    )
    return diffusers.FluxPipeline(
        scheduler, autoencoder(4, shift_factor=0.1, scaling_factor=0.4), one, first, two, second, network)  # fmt: skip


FAMILIES = {"flux": flux, "sdxl": sdxl, "sd3": sd3, "pixart_sigma": pixart_sigma, "sana": sana}


def saved(name: str, place: Path) -> Path:
    """Write a tiny random pipeline of a family into a folder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = FAMILIES[name]()
        network = getattr(pipeline, "transformer", None) or pipeline.unet
        with torch.no_grad():
            for parameter in network.parameters():  # some begin as 0
                parameter.add_(0.05 * torch.randn_like(parameter))
    pipeline.save_pretrained(place)
    return place
