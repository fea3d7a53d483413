"""`deme improve`: an under-trained model gets better, a converged one is left alone, and a kill loses nothing."""

import json
import signal

import pytest

from tests.pipeline.program import TINY_TRAIN, done, run, start

SMALL = ["steps_per_expert=40", "num_ranges=2", "lr=1e-3", "projection=foldable", "search.num_images=100", "search.step=0.5",
         "num_images=300", "batch_size=50", "sampler.num_inference_steps=5", "passport.num_images=64", "metrics.replicates=50",
         "progress.log_every=20", "progress.preview.num_images=4", "progress.preview.num_inference_steps=2"]  # fmt: skip


WITHOUT_STEPS = [word for word in SMALL if not word.startswith("steps_per_expert")]


@pytest.fixture(scope="module")
def undertrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    words = [
        "train",
        "model=digits_unet",
        "method=pretrain",
        *TINY_TRAIN,
        "num_steps=150",
        "batch_size=64",
        "optimizer.lr=2e-3",
    ]
    return done(words, folder) / "weights" / "ema"


def outcome(folder):
    (file,) = folder.glob("runs/improve/improve/*/outcome.json")
    return json.loads(file.read_text())


def test_an_undertrained_model_gets_better_and_goes_on_after_a_kill(undertrained, tmp_path):
    """The steps that fit into the time are kept: an hour is time for far more than the most steps."""
    words = [
        "improve",
        f"model={undertrained}",
        "data=digits",
        "out=better",
        *WITHOUT_STEPS,
        "hours=1",
    ]
    few_steps = "import deme.commands.improve as stage; stage.MAX_STEPS = 60"
    program = start(words, tmp_path, few_steps)
    program.wait_for(
        lambda: list(tmp_path.glob("runs/improve/improve/*/runs/improve/train/deme-*/weights/ema"))
    )
    program.signal(signal.SIGKILL)
    program.wait()
    assert not (tmp_path / "better").exists()
    (file,) = tmp_path.glob("runs/improve/improve/*/plan.json")
    plan = json.loads(file.read_text())
    code, text = run(words, tmp_path, few_steps)
    assert code == 0, text
    found = outcome(tmp_path)
    assert json.loads(file.read_text()) == plan
    assert plan["num_steps"] == found["num_steps"] == 60
    assert 0 < plan["seconds_per_step"] < 60
    assert 0 < plan["seconds_for_the_rest"] < 3600
    assert found["better"]
    assert found["metrics"]["loss"]["after"] < found["metrics"]["loss"]["before"]
    assert "better in loss beyond its interval" in text
    assert "done already" in text
    from diffusers import DDPMPipeline

    pipeline = DDPMPipeline.from_pretrained(tmp_path / "better")
    assert pipeline.unet.config["sample_size"] == 8
    assert not list((tmp_path / "better").rglob("projections*"))  # folded
    before = (tmp_path / "better" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    code, text = run(words, tmp_path)
    assert code == 0, text
    assert (
        tmp_path / "better" / "unet" / "diffusion_pytorch_model.safetensors"
    ).read_bytes() == before


def test_a_converged_model_is_not_harmed(tmp_path):
    words = [
        "improve",
        "model=asset:digits_base",
        "data=digits",
        "metrics=digits",
        "out=better",
        *SMALL,
        "lr=5e-3",
    ]
    code, text = run([*words, "search.step=1.0", "sample_seeds=[0]"], tmp_path)
    assert code == 0, text
    found = outcome(tmp_path)
    assert found["metric"] == "fd_digits"
    assert not found["better"]
    assert found["metrics"]["fd_digits"]["verdict"] != "better"
    assert not (tmp_path / "better").exists()
    assert "not better in fd_digits" in text


def test_a_folder_that_would_be_refused_in_the_end_is_refused_at_once(tmp_path):
    (tmp_path / "better").mkdir()
    (tmp_path / "better" / "deme.json").write_text("{}")
    code, text = run(
        ["improve", "model=asset:digits_base", "data=digits", "out=better", *SMALL], tmp_path
    )
    assert code == 2, text
    assert "out=better" in text
    assert "type: out=" in text
    assert not (tmp_path / "runs").exists()


def test_time_that_is_too_short_is_said_before_training(tmp_path):
    code, text = run(
        [
            "improve", "model=asset:digits_base", "data=digits", "out=better", *WITHOUT_STEPS,
            "hours=0.0001",
        ],
        tmp_path,
    )  # fmt: skip
    assert code == 2, text
    assert "deme: hours=0.0001 " in text
    assert "type: a larger hours=<n>" in text
    assert not list(tmp_path.glob("runs/improve/improve/*/runs/improve/train/deme-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hours=1", "steps_per_expert=10"], "type: one of hours=<n>, steps_per_expert=<n>"),
        (["hours=-1"], "hours must be "),
        (["sample_seeds=0"], "sample_seeds must be "),
        (["steps_per_expert=0"], "steps_per_expert must be "),
    ],
)  # fmt: skip
def test_slips(words, message, tmp_path):
    code, text = run(
        ["improve", "model=asset:digits_base", "data=digits", "out=better", *words], tmp_path
    )
    assert code == 2, text
    assert "deme: " in text
    assert message in text
    assert "Traceback" not in text
