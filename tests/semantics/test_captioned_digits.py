"""The digits with captions: what they say, what judges make of them, and the frozen parts of the pipeline."""

import json
import warnings

import pytest
import torch

from deme.data import Captioned, every
from deme.data.captioned_digits import NUMERALS, TEMPLATES, caption, digit_in, load_captioned_digits
from deme.data.digits import load_digits, pixels_and_labels, split
from deme.data.pixels import to_float, to_uint8
from deme.metrics.caption_match import CaptionMatch
from deme.metrics.digit_agreement import DigitAgreement
from deme.metrics.digit_classifier import DigitFeatures, as_digits, load_classifier
from deme.system.errors import BadConfig
from deme.system.paths import locate

CLASSIFIER, JUDGE, PIPELINE = (
    "asset:digits_classifier.safetensors",
    "asset:caption_judge",
    "asset:captioned_digits",
)


@pytest.fixture(scope="module")
def held_out():
    """Images, captions and digits of the held-out split."""
    images = load_captioned_digits().held_out
    _, labels = pixels_and_labels()
    return every(images), images.captions(list(range(len(images)))), labels[split(labels)[1]]


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionPipeline

    found = StableDiffusionPipeline.from_pretrained(locate(PIPELINE), local_files_only=True)
    found.set_progress_bar_config(disable=True)
    return found


def test_captions_name_the_digits_of_their_images(held_out):
    _, texts, digits = held_out
    assert [digit_in(text) for text in texts] == digits.tolist()
    assert {
        text.replace(NUMERALS[d], "{}") for text, d in zip(texts, digits.tolist(), strict=True)
    } == set(TEMPLATES)
    data = load_captioned_digits()
    assert isinstance(data.train, Captioned)
    assert (len(data.train), len(data.held_out), data.random_flip, data.caption_dropout) == (
        1438,
        359,
        False,
        0.1,
    )


def test_enlarged_images_are_the_digits_that_are_held_out_without_captions(held_out):
    small = every(load_digits().held_out)
    assert held_out[0].shape == (359, 3, 16, 16)
    assert held_out[0].dtype == torch.uint8
    difference = as_digits(held_out[0], "test") - to_float(small)
    assert difference.abs().mean() < 0.1
    assert (
        torch.corrcoef(
            torch.stack([as_digits(held_out[0], "test").flatten(), to_float(small).flatten()])
        )[0, 1]
        > 0.97
    )


@pytest.mark.parametrize(
    ("text", "digit"),
    [("A photo of the digit SEVEN", 7), ("a handwritten 0.", 0), ("nine, nine!", 9), ("the number 17", None),
     ("a seventh cat", None), ("", None), ("one or two", None), ("the digit 3 (three)", 3)],
)  # fmt: skip
def test_a_prompt_names_one_digit_or_none(text, digit):
    assert digit_in(text) == digit


@pytest.mark.parametrize(
    ("kind", "path", "near"), [(DigitAgreement, CLASSIFIER, 0.9), (CaptionMatch, JUDGE, 60)]
)
def test_true_captions_score_high_and_those_of_other_digits_low(kind, path, near, held_out):
    judge = kind(path)
    pixels, texts, digits = held_out
    features = judge(pixels)
    assert (features.shape, features.dtype) == ((359, judge.dimension), torch.float32)
    true = judge.score(features, texts)
    wrong = judge.score(
        features, [caption((d + 1 + i % 9) % 10, i % 3) for i, d in enumerate(digits.tolist())]
    )
    assert true.dtype == torch.float64
    assert judge.mean(true) > near
    assert judge.mean(wrong) < 0.1 * near
    order = torch.randperm(359, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = judge.score(features, [texts[i] for i in order])
    same = (digits == digits[order]).double().mean()
    assert judge.mean(shuffled) < judge.mean(true) * (same + 0.1)


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
def test_the_judge_ranks_the_right_caption_first(template, held_out):
    pixels, _, digits = held_out
    judge = CaptionMatch(JUDGE)
    features = judge(pixels)
    scores = torch.stack(
        [judge.score(features, [caption(digit, template)] * 359) for digit in range(10)], 1
    )
    assert (scores.argmax(1) == digits).double().mean() > 0.8
    assert scores.abs().max() <= 100 + 1e-4


def test_worse_images_match_less(held_out):
    pixels, texts, _ = held_out
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    for judge in (DigitAgreement(CLASSIFIER), CaptionMatch(JUDGE)):
        spoilt = [(pixels.float() + s * noise).clamp(0, 255).round().byte() for s in (0, 100, 400)]
        scores = [judge.mean(judge.score(judge(images), texts)) for images in spoilt]
        assert scores == sorted(scores, reverse=True)


def test_the_judge_is_not_the_text_encoder(pipeline):
    judge = CaptionMatch(JUDGE).network.text.text_model.state_dict()
    encoder = pipeline.text_encoder.state_dict()
    assert judge.keys() == encoder.keys()
    assert not any(
        torch.equal(judge[name], encoder[name]) for name in judge if "position_ids" not in name
    )


def test_scores_refuse_what_they_cannot_judge(tmp_path):
    agreement, match = DigitAgreement(CLASSIFIER), CaptionMatch(JUDGE)
    with pytest.raises(BadConfig, match=r"'a cat'\ntype: metrics.scores.digit_agreement=null"):
        agreement.score(torch.zeros(2, 10), ["the digit two", "a cat"])
    with pytest.raises(BadConfig, match=r"digit_caption_match .*got \(1, 8, 8\)"):
        match(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(BadConfig, match=r"digit_agreement .*got \(3, 32, 32\)"):
        agreement(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(
        BadConfig, match=r"config\.json(?s:.*)type: metrics.scores.caption_match.path="
    ):
        CaptionMatch(str(tmp_path))
    with pytest.raises(BadConfig, match="expected 0000"):
        CaptionMatch(JUDGE, sha256="0" * 64)
    assert match.truncated(["the digit two", "two " * 14, "two " * 15]) == 1
    assert match.score(torch.zeros(0, match.dimension), []).shape == (0,)
    assert torch.isfinite(
        match.score(match(torch.zeros(3, 3, 16, 16, dtype=torch.uint8)), ["", "äß 狐", "x" * 99])
    ).all()


def test_features_of_enlarged_digits_are_close_to_those_of_the_digits(held_out):
    features = DigitFeatures(CLASSIFIER)
    large, small = features(held_out[0]), features(every(load_digits().held_out))
    assert torch.nn.functional.cosine_similarity(large, small).mean() > 0.95


def test_the_tokenizer_knows_words_spells_others_and_cuts(pipeline):
    tokenizer = pipeline.tokenizer
    for template in TEMPLATES:
        text = template.format("seven")
        tokens = tokenizer(text).input_ids
        assert len(tokens) == len(text.split()) + 2
        assert tokenizer.decode(tokens, skip_special_tokens=True) == text
    unknown = tokenizer("zebra 狐", add_special_tokens=False).input_ids
    assert len(unknown) == 5 + 3  # bytes
    assert tokenizer.eos_token_id not in unknown
    cut = tokenizer(
        ["x" * 40, ""], padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    assert cut.shape == (2, 16)
    assert cut[:, -1].tolist() == [tokenizer.eos_token_id] * 2
    assert tokenizer.model_max_length == pipeline.text_encoder.config.max_position_embeddings == 16


@torch.inference_mode()
def test_the_autoencoder_keeps_digits_and_scales_latents(pipeline, held_out):
    classifier, _ = load_classifier(CLASSIFIER)
    posterior = pipeline.vae.encode(to_float(held_out[0])).latent_dist
    again = to_uint8(pipeline.vae.decode(posterior.mode()).sample)
    assert posterior.mean.shape == (359, 4, 8, 8)
    seen = [classifier(as_digits(images, "test")).argmax(1) for images in (held_out[0], again)]
    assert (seen[0] == seen[1]).double().mean() >= 0.95
    latents = pipeline.vae.config.scaling_factor * posterior.sample(
        torch.Generator().manual_seed(0)
    )
    assert abs(float(latents.std()) - 1) < 0.05


def test_the_pipeline_loads_in_stock_diffusers_and_guides_by_text(pipeline):
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        def image(text, guidance):
            draw = torch.Generator().manual_seed(0)
            return pipeline(text, num_inference_steps=3, guidance_scale=guidance, generator=draw, output_type="np").images  # fmt: skip

        seven, two = image("the digit seven", 4.0), image("the digit two", 4.0)
    assert seven.shape == (1, 16, 16, 3)
    assert (seven != two).any()
    assert sum(p.numel() for p in pipeline.unet.parameters()) <= 300_000
    index = json.loads((locate(PIPELINE) / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert (
        sum(
            f.stat().st_size
            for name in (PIPELINE, JUDGE)
            for f in locate(name).rglob("*")
            if f.is_file()
        )
        < 1_500_000
    )
