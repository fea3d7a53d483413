"""Tiny random CLIPs with real tokenizers, as Hugging Face folders and as files of open_clip."""

import json
import string

import torch
from safetensors.torch import save_file

TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
OPEN_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def strengthen(model):
    """Weights large enough for features to depend on images and texts; those of a fresh transformer hardly do."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(generator=generator).div_(weight[0].numel() ** 0.5)
            elif 0 not in weight.shape and weight.ndim:
                weight.add_(torch.randn(weight.shape, generator=generator) / 10)
    return model.eval()


def tokenizer_files(place):
    """Letters, digits and "cat" as one token; return the number of tokens. The last one ends a text."""
    letters = string.ascii_lowercase + string.digits
    merges = [("a", "t</w>"), ("c", "at</w>")]
    words = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(pair) for pair in merges),
    ]
    vocab = {
        word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])
    }
    (place / "vocab.json").write_text(json.dumps(vocab))
    (place / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in merges)
    )
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(vocab)


def hugging_face_clip(place):
    """Write a whole CLIP of 32 x 32 pixels: network, tokenizer, image processor."""
    import transformers

    place.mkdir()
    size = tokenizer_files(place)
    text = {
        **TINY,
        "vocab_size": size,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "pad_token_id": size - 1,
    }
    vision = {**TINY, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    strengthen(transformers.CLIPModel(config)).save_pretrained(place)
    square = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square).save_pretrained(
        place
    )
    return place


def open_clip_file(place):
    """Write a CLIP of 32 x 32 pixels to `place`, and register its architecture under the name of the file."""
    import open_clip

    config = place.with_suffix(".json")
    config.write_text(json.dumps(OPEN_CLIP))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    save_file(strengthen(open_clip.CLIP(**OPEN_CLIP)).state_dict(), place)
    return place
