"""Our CLIP scores against torchmetrics, transformers and open_clip, on tiny random networks."""

import json
import logging
import re
import shutil
import sys
import warnings

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from deme.metrics.clip_score import ClipScore
from deme.metrics.open_clip_score import OpenClipScore, model_settings, preprocessing_of
from deme.system import files
from deme.system.errors import BadConfig, WorkFailed
from deme.system.optional import requirements_of_extra
from tests.clips import OPEN_CLIP, hugging_face_clip, open_clip_file
from tests.reference.test_vision import pictures

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what these import may be deprecated
    transformers = pytest.importorskip("transformers")
    open_clip = pytest.importorskip("open_clip")
    from torchmetrics.multimodal import CLIPScore

TEXTS = ["cat", "a cat on 3 dogs", "xyz", "Red; bus!", "", "the cat sat at a bat"]
LONG = "at cat " * 100


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with hf/ and tiny.safetensors, and the same with the texts' projections negated: minus-hf/, minus.safetensors."""
    root = tmp_path_factory.mktemp("clips")
    hugging_face_clip(root / "hf")
    shutil.copytree(root / "hf", root / "minus-hf")
    negate(root / "minus-hf" / "model.safetensors", "text_projection.weight")
    open_clip_file(root / "tiny.safetensors")
    shutil.copy(root / "tiny.safetensors", root / "minus.safetensors")
    negate(root / "minus.safetensors", "text_projection")
    return root


def negate(file, name):
    tensors = load_file(file)
    tensors[name] = -tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})


def signed(root, positive, kind):
    """The score whose mean over the pictures and TEXTS is positive, or the one whose mean is negative."""
    both = [make(kind, root, minus) for minus in (False, True)]
    means = [float(one.score(one(pictures(40, 50)), TEXTS).mean()) for one in both]
    assert means[0] == pytest.approx(-means[1], abs=1e-5)
    assert abs(means[0]) > 1
    return both[(means[0] > 0) != positive], means[0] if (means[0] > 0) == positive else means[1]


def make(kind, root, minus=False):
    if kind is ClipScore:
        return ClipScore(str(root / ("minus-hf" if minus else "hf")))
    return OpenClipScore(str(root / ("minus" if minus else "tiny")) + ".safetensors", "tiny")


BOTH = pytest.mark.parametrize("kind", [ClipScore, OpenClipScore])


class Tensors(torch.nn.Module):
    """A CLIPModel whose features are tensors, as torchmetrics 1.9 has them; transformers 5 wraps them."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixels):
        return self.unwrapped(self.model.get_image_features(pixels))

    def get_text_features(self, tokens, mask):
        return self.unwrapped(self.model.get_text_features(tokens, mask))

    @staticmethod
    def unwrapped(found):
        return getattr(found, "pooler_output", found)


def torchmetrics_of(place):
    model = transformers.CLIPModel.from_pretrained(place).eval().requires_grad_(False)
    return CLIPScore(lambda: (Tensors(model), transformers.CLIPProcessor.from_pretrained(place)))


@pytest.mark.parametrize("positive", [True, False])
def test_it_is_torchmetrics(root, positive):
    score, plain = signed(root, positive, ClipScore)
    theirs = torchmetrics_of(next(p for p in root.glob("*hf") if files.sha256(p) == score.weights))
    for pixels, texts in ((pictures(40, 50), TEXTS), (pictures(32, 32, count=3), TEXTS[:3])):
        found = score.score(score(pixels), texts)
        singles = []
        for image, text in zip(pixels, texts, strict=True):
            theirs.reset()
            theirs.update(image, text)
            singles.append(float(theirs.score))
        torch.testing.assert_close(found, torch.tensor(singles).double(), rtol=0, atol=1e-4)
        theirs.reset()
        theirs.update(pixels, texts)
        assert score.mean(found) == pytest.approx(float(theirs.compute()), abs=1e-4)
    cut = score.mean(score.score(score(pictures(40, 50)), TEXTS))
    assert cut == pytest.approx(plain) if positive else cut == 0.0


def test_it_is_transformers_processor_and_model(root):
    model = transformers.CLIPModel.from_pretrained(root / "hf").eval()
    processor = transformers.CLIPProcessor.from_pretrained(root / "hf")
    pixels = pictures(60, 40)
    inputs = processor(text=TEXTS, images=list(pixels), return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**inputs).logits_per_image.diagonal() / model.logit_scale.exp()
    score = ClipScore(str(root / "hf"))
    found = score.score(score(pixels), TEXTS)
    assert (found.dtype, found.shape, found.device.type) == (torch.float64, (6,), "cpu")
    torch.testing.assert_close(found, 100 * logits.double(), rtol=0, atol=1e-4)


def directly(file, pixels, texts):
    """open_clip by hand, one image and one text at a time."""
    model, _, preprocess = open_clip.create_model_and_transforms("tiny", pretrained=str(file))
    tokenizer = open_clip.get_tokenizer("tiny")
    model.eval()
    found = []
    for pixel, text in zip(pixels, texts, strict=True):
        image = Image.fromarray(pixel.permute(1, 2, 0).numpy())
        with torch.no_grad():
            a = model.encode_image(preprocess(image)[None], normalize=True)
            b = model.encode_text(tokenizer([text]), normalize=True)
        found.append(100 * float(a[0] @ b[0]))
    return torch.tensor(found).double()


@pytest.mark.parametrize("positive", [True, False])
def test_it_is_open_clip_and_a_negative_mean_stays_one(root, positive):
    score, plain = signed(root, positive, OpenClipScore)
    file = next(p for p in root.glob("*.safetensors") if files.sha256(p) == score.weights)
    pixels = pictures(40, 50)
    found = score.score(score(pixels), TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its tokenizer leaves a file open
        theirs = directly(file, pixels, TEXTS)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-4)
    assert found.dtype == torch.float64
    assert (
        score.mean(found) == pytest.approx(plain) == pytest.approx(float(theirs.mean()), abs=1e-4)
    )
    assert (score.mean(found) > 0) == positive


@BOTH
def test_long_texts_keep_their_end_token_and_are_counted(root, kind):
    """All texts with the same first 75 tokens score the same, with the end token at place 76, and that of 75 is not cut."""
    score = make(kind, root)
    fits, one_more = ("at cat " * 37 + "at"), ("at cat " * 38)
    texts = [LONG, fits, one_more, fits + " zzz", "cat", ""]
    assert score.truncated(texts) == 3
    assert score.truncated([]) == 0
    features = score(pictures(32, 32, count=1)).expand(6, -1)
    scores = score.score(features, texts)
    torch.testing.assert_close(scores[:4], scores[:1].expand(4), rtol=0, atol=1e-5)
    assert abs(scores[0] - scores[4]) > 0.1
    assert score.truncated(texts) == 3  # scoring left the tokenizer as it was
    embedded = score.embed([LONG, "cat"])
    torch.testing.assert_close(embedded[0], score.embed([LONG])[0], rtol=0, atol=1e-5)


@BOTH
def test_the_end_token_decides_and_torchmetrics_loses_it(root, kind):
    score = make(kind, root)
    if kind is ClipScore:
        tokens = score.processor.tokenizer([LONG], truncation=True, max_length=77)["input_ids"][0]
        end = score.processor.tokenizer.eos_token_id
        pixels = pictures(32, 32, count=1)
        with pytest.warns(UserWarning, match="caption longer than"):
            theirs = float(torchmetrics_of(root / "hf")(pixels, [LONG]))
        assert abs(max(float(score.score(score(pixels), [LONG])[0]), 0.0) - theirs) > 0.1
    else:
        tokens = score.tokenizer([LONG])[0].tolist()
        end = score.tokenizer.eot_token_id
    assert len(tokens) == 77
    assert tokens.index(end) == 76


@BOTH
def test_a_score_depends_on_its_own_image_and_text_alone(root, kind):
    score, pixels = make(kind, root), pictures(36, 44, count=53)
    texts = [f"{'cat ' * (index % 9)}{index}" for index in range(53)]
    together = score.score(score(pixels), texts)
    apart = torch.cat(
        [score.score(score(image[None]), [text]) for image, text in zip(pixels, texts, strict=True)]
    )
    torch.testing.assert_close(together, apart, rtol=0, atol=2e-4)
    grey = pictures(28, 28, count=3, channels=1)
    assert torch.equal(score(grey), score(grey.expand(-1, 3, -1, -1)))
    with pytest.raises(ValueError, match="3 images and 2 texts"):
        score.score(score(grey), texts[:2])


@BOTH
def test_what_it_says_of_itself(root, kind):
    score = make(kind, root)
    assert (
        score.score_name
        == score.suffix
        == {ClipScore: "clip_score", OpenClipScore: "clip_score_open_clip"}[kind]
    )
    assert score(pictures(20, 20, count=2)).shape == (2, score.dimension) == (2, 12)
    assert "texts of 77 tokens" in score.name
    place = root / ("hf" if kind is ClipScore else "tiny.safetensors")
    assert score.weights == files.sha256(place)
    assert score.to("cpu") is score
    assert not any(weight.requires_grad for weight in score.network.parameters())
    more = {} if kind is ClipScore else {"architecture": "tiny"}
    assert kind(str(place), **more, sha256=score.weights).name == score.name
    with pytest.raises(BadConfig, match="expected 0000"):
        kind(str(place), **more, sha256="0000")
    with pytest.raises(BadConfig, match=score.score_name):
        score(torch.zeros(2, 4, 8, 8, dtype=torch.uint8))


@BOTH
def test_loading_is_silent_and_leaves_the_seed_and_logging_alone(root, kind, caplog, capfd):
    state = torch.get_rng_state()
    before = list(logging.root.handlers), logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(kind, root)
    assert (list(logging.root.handlers), logging.root.manager.disable) == before
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")
    assert torch.equal(torch.get_rng_state(), state)


# --- folders of Hugging Face


@pytest.fixture
def broken(root, tmp_path):
    """A copy of the folder, to be damaged."""
    return shutil.copytree(root / "hf", tmp_path / "broken")


@pytest.mark.parametrize("name", ["text_projection.weight", "text_model.final_layer_norm.bias"])
def test_gaps_in_the_weights_are_refused(broken, name):
    tensors = load_file(broken / "model.safetensors")
    save_file(
        {**tensors, name: torch.ones(5)}, broken / "model.safetensors", metadata={"format": "pt"}
    )
    message = rf"1 of the \d+ tensors of CLIPModel.*{name}(?s:.*)type: metrics.path="
    with pytest.raises(BadConfig, match=message):
        ClipScore(str(broken))
    del tensors[name]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadConfig, match=message):
        ClipScore(str(broken))


@pytest.mark.parametrize(
    "gone",
    ["preprocessor_config.json", "vocab.json", "merges.txt", "config.json", "model.safetensors"],
)
def test_incomplete_folders_are_refused(broken, gone):
    (broken / gone).unlink()
    with pytest.raises(BadConfig, match=gone):
        ClipScore(str(broken))


@pytest.mark.parametrize("cut", ["vocab.json", "preprocessor_config.json", "model.safetensors"])
def test_cut_files_are_refused(broken, cut):
    content = (broken / cut).read_bytes()
    (broken / cut).write_bytes(content[: len(content) // 2])
    with pytest.raises(WorkFailed, match=str(broken)):
        ClipScore(str(broken))


def test_a_folder_that_a_processor_saved_is_read(broken, root):
    transformers.CLIPProcessor.from_pretrained(root / "hf").save_pretrained(broken)
    for name in ("vocab.json", "merges.txt"):
        (broken / name).unlink()
    score, pixels = ClipScore(str(broken)), pictures(40, 30)
    torch.testing.assert_close(
        score.score(score(pixels), TEXTS), (o := make(ClipScore, root)).score(o(pixels), TEXTS)
    )


def test_a_tokenizer_of_another_network_is_refused(broken):
    vocab = json.loads((broken / "vocab.json").read_text())
    last = max(vocab, key=vocab.__getitem__)
    (broken / "vocab.json").write_text(
        json.dumps({**vocab, "more</w>": vocab[last], last: vocab[last] + 1})
    )
    with pytest.raises(
        BadConfig,
        match=r"77 tokens and the end token 76; the network has 76 tokens and the end token 75",
    ):
        ClipScore(str(broken))


def test_the_end_token_of_old_configs_is_the_highest_number(broken, root):
    config = json.loads((broken / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (broken / "config.json").write_text(json.dumps(config))
    old, new, pixels = ClipScore(str(broken)), make(ClipScore, root), pictures(40, 30)
    texts = [*TEXTS[:5], LONG]
    torch.testing.assert_close(old.score(old(pixels), texts), new.score(new(pixels), texts))


def test_the_vision_half_alone_is_refused(tmp_path):
    config = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    with pytest.raises(BadConfig, match="'clip_vision_model'; allowed: clip\n"):
        ClipScore(str(tmp_path))


# --- files of open_clip


@pytest.mark.parametrize(
    "name",
    ["text_projection", "visual.transformer.resblocks.1.ln_2.bias", "visual.positional_embedding"],
)
def test_gaps_in_a_file_of_open_clip_are_refused(root, tmp_path, name):
    """open_clip itself would stretch the position embedding."""
    tensors = load_file(root / "tiny.safetensors")
    wrong = {**tensors, name: torch.ones(5, 16)}
    message = rf"tiny: 1 of \d+ tensors.*{name}\ntype: metrics.path="
    for state in (wrong, {key: value for key, value in tensors.items() if key != name}):
        save_file(state, tmp_path / "a.safetensors")
        with pytest.raises(BadConfig, match=message):
            OpenClipScore(str(tmp_path / "a.safetensors"), "tiny")


def test_another_architecture_is_refused_even_if_all_it_needs_is_there(root, tmp_path):
    shallow = {**OPEN_CLIP, "vision_cfg": {**OPEN_CLIP["vision_cfg"], "layers": 1}}
    (tmp_path / "shallow.json").write_text(json.dumps(shallow))
    open_clip.add_model_config(tmp_path / "shallow.json")
    with pytest.raises(
        BadConfig,
        match=r"12 are unknown, first visual\.transformer",
    ):
        OpenClipScore(str(root / "tiny.safetensors"), "shallow")


def test_pickled_weights_are_read_without_running_code(root, tmp_path):
    state = load_file(root / "tiny.safetensors")
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "tiny.bin")
    score = OpenClipScore(str(tmp_path / "tiny.bin"), "tiny")
    assert {weight.dtype for weight in score.network.parameters()} == {torch.float32}
    torch.save(open_clip.CLIP(**OPEN_CLIP), tmp_path / "code.bin")
    with pytest.raises(WorkFailed, match=r"code\.bin"):
        OpenClipScore(str(tmp_path / "code.bin"), "tiny")
    cut = (root / "tiny.safetensors").read_bytes()[:-10]
    (tmp_path / "cut.safetensors").write_bytes(cut)
    with pytest.raises(WorkFailed):
        OpenClipScore(str(tmp_path / "cut.safetensors"), "tiny")
    with pytest.raises(BadConfig, match=r"type: metrics.path=.*open_clip_model.safetensors"):
        OpenClipScore(str(tmp_path), "tiny")


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("ViT-g-15", r"'ViT-g-15'; did you mean 'ViT-"),
        ("hf-hub:laion/CLIP-ViT-g-14", "hf-hub:laion/CLIP-ViT-g-14"),
        ("roberta-ViT-B-32", "roberta-ViT-B-32 .*tokenizer"),
        ("ViT-B-16-SigLIP", "ViT-B-16-SigLIP .*tokenizer"),
    ],
)
def test_architectures_that_would_need_the_hub_are_refused(architecture, message):
    with pytest.raises(BadConfig, match=message):
        model_settings(open_clip, architecture)


def published(architecture, pretrained=None):
    settings = model_settings(open_clip, architecture)
    return preprocessing_of(open_clip, architecture, settings, pretrained)


def test_images_are_prepared_as_the_published_weights_want_them():
    assert published("ViT-g-14") == published("ViT-g-14", "laion2b_s34b_b88k")
    assert published("ViT-g-14")["mean"] == open_clip.OPENAI_DATASET_MEAN
    assert published("ViT-L-14", "laion2b_s32b_b82k")["mean"] == (0.5, 0.5, 0.5)
    assert published("ViT-H-14-quickgelu", "dfn5b")["resize_mode"] == "squash"
    assert published("ViT-S-32") == {}  # none are published
    with pytest.raises(
        BadConfig,
        match=r"ViT-L-14 .*\ntype: metrics.pretrained=<one of openai, .*laion2b_s32b",
    ):
        published("ViT-L-14")
    with pytest.raises(
        BadConfig,
        match=r"openai of ViT-L-14 .*\ntype: metrics.architecture=ViT-L-14-quickgelu",
    ):
        published("ViT-L-14", "openai")
    with pytest.raises(
        BadConfig, match=r"'laion2b_s34b' of ViT-g-14; did you mean 'laion2b_s34b_b88k'"
    ):
        published("ViT-g-14", "laion2b_s34b")


def test_without_the_libraries_it_says_what_to_type(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(
        BadConfig,
        match=rf"\ntype: pip install {re.escape(requirements_of_extra('text'))}",
    ):
        make(OpenClipScore, root)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadConfig, match=r"\ntype: pip install transformers"):
        make(ClipScore, root)
