"""Text to image from the command line: experts, merge, export, evaluation, prompt grids; and what slips are answered with."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

from deme.data.captioned_digits import load_captioned_digits
from deme.diffusion import image_generator, uniform
from deme.metrics import fixed_triples, resample_counts
from deme.models.loading import load_pretrained
from deme.runs import weights_folder
from deme.sampling.guided import ClassifierFreeGuidance
from deme.system import read_json
from deme.system.paths import locate
from deme.system.tensors import TensorFile
from tests.captioned import captioned_folder
from tests.pipeline.program import done, run
from tests.pipeline.test_errors import fails

BASE = ["model=captioned_digits_base", "data=captioned_digits"]
TRAIN = [*BASE, "num_steps=4", "batch_size=8", "progress.preview.num_inference_steps=2", "progress.preview.num_images=4",
         "passport.num_images=16"]  # fmt: skip
EVALUATE = [*BASE, "metrics=captioned_digits", "prompts=captions", "sampler=ddim_latent", "sampler.num_inference_steps=3",
            "num_images=40", "batch_size=20", "shard_size=20", "metrics.replicates=5", "metrics.loss.draws=1"]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two experts with foldable projections, their merge, and an evaluation of it."""
    folder = tmp_path_factory.mktemp("text")
    words = [
        *TRAIN,
        "method=deme",
        "ranges.num_ranges=2",
        "projection=foldable",
        "ema=none",
        "optimizer.lr=2e-3",
    ]
    experts = [done(["train", f"expert={i}", *words], folder) for i in (0, 1)]
    given = f"inputs.experts=[{','.join(map(str, experts))}]"
    merged = done(
        ["merge", "model=captioned_digits_base", given, "merge.weights=[0.7,0.4]"], folder
    )
    evaluated = done(["evaluate", f"inputs.weights={merged}", *EVALUATE], folder)
    routed = done(["evaluate", "source=experts", given, *EVALUATE], folder)
    return {
        "folder": folder,
        "experts": experts,
        "merged": merged,
        "evaluated": evaluated,
        "routed": routed,
    }


def test_latents_and_captions_of_held_out_images_judge_a_training(made, tmp_path):
    words = [*TRAIN, "method=deme", "ranges.num_ranges=2", "projection=foldable", "ema=none", "optimizer.lr=2e-3"]  # fmt: skip
    judged = done(
        [
            "train",
            "expert=0",
            *words,
            "progress.validate.every=3",
            "progress.validate.num_images=6",
        ],
        tmp_path,
    )
    alone = made["experts"][0]
    assert judged.name == alone.name
    for file in (alone / "weights" / "raw").rglob("*.safetensors"):
        assert (judged / file.relative_to(alone)).read_bytes() == file.read_bytes()
    rows = [json.loads(line) for line in (judged / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row.get("held_out_loss")] == [-1, 2, 3]
    assert not any("held_out_loss/raw" in row for row in rows)  # there is no average
    grids = {file.name: file.read_bytes() for file in (judged / "samples").iterdir()}
    assert set(grids) == {"grid.png", "step-0.png", "step-3.png", "step-4.png"}
    assert grids["step-4.png"] == grids["grid.png"]


def test_every_weights_folder_is_a_whole_pipeline(made):
    for run_folder in (*made["experts"], made["merged"]):
        folder = weights_folder(run_folder)
        assert {"vae", "text_encoder", "tokenizer", "unet", "scheduler"} <= {
            p.name for p in folder.iterdir()
        }
        theirs = folder / "vae" / "diffusion_pytorch_model.safetensors"
        assert (
            theirs.read_bytes()
            == (locate("asset:captioned_digits") / "vae" / theirs.name).read_bytes()
        )


def test_what_is_exported_after_the_merge_draws_the_same_in_stock_diffusers(made):
    """docs/method.md#projections: foldable projections are gone, and the pictures are ours."""
    out = made["folder"] / "exported"
    code, text = run(["export", f"run={made['merged']}", f"out={out}"], made["folder"])
    assert code == 0, text
    card = (out / "README.md").read_text()
    assert "pipeline_tag: text-to-image" in card
    assert "StableDiffusionPipeline.from_pretrained" in card
    assert not list(out.rglob("projections*"))
    stock = StableDiffusionPipeline.from_pretrained(out, low_cpu_mem_usage=False)
    stock.set_progress_bar_config(disable=True)
    stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config)
    texts = ["a photo of the digit seven", "the digit two"]
    noise = torch.stack([torch.randn(4, 8, 8, generator=image_generator(3, i)) for i in range(2)])
    theirs = stock(
        texts,
        latents=noise,
        num_inference_steps=5,
        guidance_scale=2.0,
        height=16,
        width=16,
        output_type="pt",
    ).images

    ours = load_pretrained(
        str(weights_folder(made["merged"]))
    )  # merged from experts that had projections
    network = ClassifierFreeGuidance(ours, 2.0, ours.condition([""]))
    scheduler, x = DDIMScheduler.from_config(ours.scheduler_config), noise
    scheduler.set_timesteps(5)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t.expand(2), ours.condition(texts)), t, x).prev_sample
        pictures = (ours.decode(x) / 2 + 0.5).clamp(0, 1)
    assert float((pictures - theirs).abs().max()) < 1e-4
    base = load_pretrained("asset:captioned_digits")
    moved = max(
        float((a - b).detach().abs().max())
        for a, b in zip(ours.parameters(), base.parameters(), strict=True)
    )
    assert moved > 1e-3


def test_an_evaluation_says_how_well_images_show_their_prompts(made):
    metrics = read_json(made["evaluated"] / "metrics.json")["metrics"]
    assert {"digit_agreement", "digit_caption_match", "fd_digits", "loss", "loss/3"} <= set(metrics)
    agreement = metrics["digit_agreement"]
    assert (agreement["n"], agreement["prompts"], agreement["better"], agreement["truncated"]) == (
        40,
        40,
        "higher",
        0,
    )
    assert 0 <= agreement["value"] <= 1
    assert agreement["reference"].startswith("captions (")
    low, high = agreement["interval"]
    assert low <= agreement["value"] <= high


def test_sampling_seeds_resample_their_prompts_alike(made):
    """They draw the same prompts: the difference between prompts must not average out over them."""
    other = done(
        ["evaluate", f"inputs.weights={made['merged']}", *EVALUATE, "sample_seed=7"], made["folder"]
    )
    found = []
    for place in (made["evaluated"], other):
        scores = TensorFile(place / "moments" / "digit_caption_match_scores.safetensors").read(
            "digit_caption_match"
        )
        told = read_json(place / "replicates.json")["digit_caption_match"]
        counts = torch.stack([resample_counts(0, r, 40) for r in range(5)]).double()
        assert told == pytest.approx((counts @ scores / 40).tolist())
        found.append(scores)
    assert not torch.equal(*found)


def test_an_audit_of_it_holds(made):
    code, text = run(["verify", f"run={made['evaluated']}", "num_images=6"], made["folder"])
    assert code == 0, text


def test_routed_and_merged_models_start_from_the_same_noise_and_triples(made):
    one, other = (
        read_json(made[name] / "metrics.json")["metrics"] for name in ("evaluated", "routed")
    )
    assert one["loss"]["reference"] == other["loss"]["reference"]
    assert one["loss"]["value"] != other["loss"]["value"]


def test_the_held_out_loss_is_of_latents_and_captions(made):
    """An oracle of a few lines: the same triples, the base's own VAE and text encoder, plain eps."""
    evaluated = done(
        ["evaluate", "metrics=loss", "metrics.loss.draws=1", "metrics.replicates=5", *BASE],
        made["folder"],
    )
    base, held_out = load_pretrained("asset:captioned_digits"), load_captioned_digits().held_out
    rows = list(range(len(held_out)))
    x0 = base.encoders.moments(held_out.__getitems__(rows).float() / 127.5 - 1)[0].half().float()
    text = base.condition(held_out.captions(rows))["encoder_hidden_states"].half().float()
    total, ranges = 0.0, uniform(4, 1000)

    class Shaped:
        def __len__(self):
            return len(rows)

        def __getitems__(self, indices):
            return torch.zeros(len(indices), 4, 8, 8, dtype=torch.uint8)

        def content_hash(self):
            return ""

    for _, _, t, eps, _ in fixed_triples(Shaped(), ranges, 1, 0):
        alpha_bar = base.schedule.alpha_squared[t].float()[:, None, None, None]
        with torch.no_grad():
            answer = base(
                alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps,
                t,
                {"encoder_hidden_states": text},
            )
        total += float((answer - eps).square().mean()) / len(ranges)
    assert read_json(evaluated / "metrics.json")["metrics"]["loss"]["value"] == pytest.approx(
        total, rel=1e-4
    )


def test_weights_are_searched_by_the_loss_of_latents(made):
    given = f"inputs.experts=[{','.join(map(str, made['experts']))}]"
    found = done(
        [
            "search",
            given,
            *BASE,
            "metrics=loss",
            "search=gradient",
            "search.max_evaluations=3",
            "num_images=20",
        ],
        made["folder"],
    )
    assert len(read_json(found / "best.json")["weights"]) == 2


def test_prompts_are_drawn_in_a_labelled_grid(made):
    (made["folder"] / "asked.csv").write_text("prompt\nthe digit two\na photo of the digit nine\n")
    places = f"run={{before: asset:captioned_digits, merged: {made['merged']}}}"
    words = ["prompts=coco", "prompts.path=asked.csv", "prompts.seed_column=null", "sampler=ddim_latent",
             "sampler.num_inference_steps=3", "out=grid.png"]  # fmt: skip
    code, text = run(["sample", places, *words], made["folder"])
    assert code == 0, text
    assert "2 images of before" in text
    with Image.open(made["folder"] / "grid.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape[1] > 2 * 250
    assert pixels.std() > 5


@pytest.fixture
def captioned(tmp_path):
    """A folder with images and captions."""
    folder = tmp_path / "images"
    captioned_folder(folder, 12, (16, 16), "the digit {}")
    return folder


FOLDER = ["data=captioned_images", "data.path=images", "data.held_out_fraction=0.25", "model=captioned_digits_base", *TRAIN[2:],
          "passport.contradicted=train"]  # fmt: skip


def test_any_folder_with_captions_is_trained_on_with_mirror_images(captioned, tmp_path):
    path = done(["train", *FOLDER, "data.random_flip=true"], tmp_path)
    assert "mirrored at random" in (path / "log.txt").read_text()
    about = read_json(weights_folder(path) / "deme.json")
    assert about["num_images"] == 9


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", *TRAIN[2:], "model=captioned_digits_base", "data=digits"], 2, "no captions"),
        (
            ["evaluate", *[w for w in EVALUATE if w != "prompts=captions"]],
            2,
            "no prompts are given",
        ),
        (
            ["evaluate", *EVALUATE, "num_images=400"],
            2,
            "type: num_images=359",
        ),
        (["evaluate", *EVALUATE, "sampler=ddim"], 2, "sampler=ddim_latent"),
        (["evaluate", *EVALUATE, "guidance_scale=0.5"], 2, "guidance_scale must be a number"),
        (["evaluate", "prompts=paper_figure"], 2, "this model takes no prompts"),
        (["evaluate", *EVALUATE, "metrics.size=8"], 2, "generated images are measured at 8 x 8"),
        (["evaluate", *EVALUATE, "sampler.num_inference_steps=1000"], 2, "the model has t < 1000"),
        (
            ["evaluate", *EVALUATE, "metrics=digits", "metrics.loss=null", "metrics.features=null"],
            2,
            "nothing is measured",
        ),
        (["evaluate", *EVALUATE, "data=none", "prompts=digits", "num_images=4"], 2, "data=none"),
        (["train", *TRAIN, "data.caption_dropout=1.5"], 2, "caption_dropout"),
    ],
)
def test_slips_get_one_message(words, code, message, tmp_path):
    fails(words, tmp_path, code, message)


def test_what_a_run_would_stumble_over_is_told_before_anything_long(tmp_path):
    twice = [
        {"prompt": "the digit two", "kind": "two", "part": "six"},
        {"prompt": "the digit six", "kind": "six", "part": "two"},
    ]
    (tmp_path / "twice.json").write_text(json.dumps(twice))
    (tmp_path / "cats.json").write_text(json.dumps([{"prompt": "a cat"}, {"prompt": "a dog"}]))
    words = [
        *EVALUATE,
        "prompts=paper_figure",
        "num_images=2",
        "metrics.features=null",
        "metrics.loss=null",
    ]
    columns = ["prompts.category_column=kind", "prompts.phrase_column=part"]
    for more, message in (
        (["evaluate", *words, "prompts.path=twice.json", *columns], "a category and a phrase of the same name 'six'"),
        (["evaluate", *words, "prompts.path=cats.json", "prompts.phrase_column=null"], "type: metrics.scores.digit_agreement=null"),
        (["train", *TRAIN, "method=distill", "paths.cache=cache"], "method=distill learns from the experts"),
    ):  # fmt: skip
        text = fails(more, tmp_path, 2, message)
        assert "2/2 images" not in text
        assert "encoded 1438" not in text


def test_missing_captions_and_damaged_images_are_named(captioned, tmp_path):
    lines = (captioned / "metadata.jsonl").read_text().splitlines()
    (captioned / "metadata.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    fails(["train", *FOLDER], tmp_path, 3, "11.png")
    (captioned / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    (captioned / "3.png").write_bytes(b"no picture")
    fails(["train", *FOLDER], tmp_path, 4, "3.png")


def test_running_out_of_memory_names_what_helps(tmp_path):
    patch = (
        "import torch\nfrom deme.methods.finetune import Finetune\n"
        "def losses(*args, **more):\n    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')\n"
        "Finetune.losses = losses\n"
    )
    code, text = run(["train", *TRAIN], tmp_path, patch=patch)
    assert code == 4
    assert "out of memory with batch_size=8" in text
    for option in (
        "batch_size=4 accumulate=2",
        "compute.gradient_checkpointing=true",
        "compute.precision=bf16-mixed",
    ):
        assert option in text
    assert "Traceback" not in text


def test_another_family_is_refused_by_name(tmp_path):
    folder = shutil.copytree(locate("asset:captioned_digits"), tmp_path / "xl")
    index = read_json(folder / "model_index.json")
    (folder / "model_index.json").write_text(
        json.dumps({**index, "text_encoder_2": ["transformers", "CLIPTextModel"]})
    )
    fails(
        ["train", *TRAIN[2:], "data=captioned_digits", f"model={folder}"],
        tmp_path,
        2,
        "text_encoder_2",
    )


def test_the_papers_prompts_are_scored_by_phrase_and_compared(made):
    """Metrics of one image have no interval, and break nothing."""
    (made["folder"] / "two.json").write_text(
        json.dumps(
            [{"prompt": f"a photo of the digit {d}", "part": f"digit {d}"} for d in ("two", "six")]
        )
    )
    words = [*EVALUATE, "prompts=paper_figure", "prompts.path=two.json", "prompts.phrase_column=part", "num_images=2",
             "metrics.features=null", "metrics.loss=null"]  # fmt: skip
    one, other = (
        done(["evaluate", *words, *more], made["folder"])
        for more in ([], [f"inputs.weights={made['merged']}"])
    )
    metrics = read_json(one / "metrics.json")["metrics"]
    assert metrics["digit_agreement/digit two"]["text"] == "digit two"
    assert "interval" not in metrics["digit_agreement/digit two"]
    code, text = run(["compare", str(one), str(other)], made["folder"])
    assert code == 0, text
