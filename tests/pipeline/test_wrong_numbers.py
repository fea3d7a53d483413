"""What would give a wrong number, or none, is refused before work, or fails; training that is done stays done."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from deme.evaluation.labels import Metric
from deme.metrics import FrechetDistance
from deme.metrics.kernel import kernel_distance
from deme.metrics.statistics import Statistics
from deme.models.layout import SCHEDULER, UNET
from deme.system.errors import NotFinite
from deme.system.paths import PACKAGE
from tests.pipeline.program import TINY_EVALUATE, TINY_TRAIN, done, run

FEW = [*TINY_EVALUATE, "num_images=50", "experiment=digits/evaluate"]
NO_SAMPLER = """
import deme.sampling.ddim as d
def scheduler(*_):
    raise RuntimeError("cannot sample")
d.DDIM.scheduler = scheduler
"""


def model(folder, asset="digits_base", drop=(), part="scheduler", **changed):
    """A copy of a shipped model whose config says other things, or leaves them unsaid."""
    shutil.copytree(PACKAGE / "assets" / asset, folder)
    file = folder / part / (SCHEDULER if part == "scheduler" else "config.json")
    config = json.loads(file.read_text()) | changed
    file.write_text(json.dumps({key: v for key, v in config.items() if key not in drop}))
    return folder


def with_weights(folder, change):
    file = folder / UNET
    save_file({name: change(value) for name, value in load_file(file).items()}, file)
    return folder


def test_weights_that_overflow_when_read_are_named_before_images(tmp_path):
    huge = with_weights(model(tmp_path / "huge"), lambda value: value.double() * 1e300)
    code, text = run(["evaluate", *FEW, f"model={huge}/"], tmp_path)
    assert code == 4, text
    assert "overflow float32" in text
    assert "tensor conv_in.weight of" in text
    assert not list(tmp_path.glob("runs/*/*/*/samples/*"))


@pytest.mark.parametrize("command", ["train", "doctor"])
def test_a_model_that_predicts_nan_is_refused_before_training(command, tmp_path):
    large = with_weights(
        model(tmp_path / "large"), lambda value: torch.full_like(value, 3e38).contiguous()
    )
    words = TINY_TRAIN if command == "train" else ["data=digits"]
    code, text = run([command, f"model={large}/", *words], tmp_path)
    assert code == 4, text
    assert f"{large}/ predicts NaN" in text
    assert "nan%" not in text
    assert not list(tmp_path.glob("runs/*/*/*/checkpoints/*"))


@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_images_that_are_not_finite_fail_the_work(command, tmp_path):
    large = with_weights(
        model(tmp_path / "large"), lambda value: torch.full_like(value, 3e38).contiguous()
    )
    words = [f"model={large}/", *FEW]
    if command == "sample":
        words = [f"run={{large: {large}}}", "num_images=4", "out=o.png"]
    code, text = run([command, *words], tmp_path)
    assert code == 4, text
    assert "image 0 of sampling seed" in text
    assert not (tmp_path / "o.png").exists()
    assert not list(tmp_path.glob("runs/*/*/*/metrics.json"))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_no_metric_is_nan_or_infinite(wrong):
    label = {"n": 2, "reference": "images", "better": "lower", "implementation": "a distance"}
    with pytest.raises(NotFinite, match="a distance"):
        Metric(wrong, label)
    with pytest.raises(NotFinite):
        Metric(1.0, label, [1.0, wrong])
    with pytest.raises(NotFinite):
        Metric(1.0, label, more={"std": wrong})


def test_trained_weights_that_are_not_finite_are_not_written(tmp_path):
    """The loss of the last step was finite; its update was not."""
    patch = """
import torch
from deme.training.module import DiffusionModule
own = DiffusionModule.weights
def weights(self, *which):
    return {name: value * torch.inf for name, value in own(self, *which).items()}
DiffusionModule.weights = weights
"""
    code, text = run(["train", *TINY_TRAIN], tmp_path, patch)
    assert code == 4, text
    assert "optimizer.lr=<smaller>" in text
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_expert_whose_range_has_no_weight_is_refused(tmp_path):
    words = [
        "weighting=p2",
        "weighting.gamma=5",
        "ranges.num_ranges=100",
        "expert=0",
        "method=deme",
    ]
    code, text = run(["train", *TINY_TRAIN, *words], tmp_path)
    assert code == 2, text
    assert "[0, 10)" in text
    assert "nothing would be trained" in text


@pytest.mark.parametrize("given", [(1e200, 1.0), (0.0, 1e308)])
def test_reference_statistics_whose_products_overflow_are_refused(given):
    """Of finite numbers: the distance, or the eigenvalues of a product, would be infinite."""
    mean, variance = given
    one = torch.ones(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="1e\\+100"):
        Statistics.given(9, mean * one, variance * torch.diag(one))
    largest = Statistics.given(10**6, 1e100 * one, 1e100 * torch.diag(one))
    assert math.isfinite(FrechetDistance(largest)(Statistics().update(torch.randn(9, 3))))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_told_as_such(wrong):
    features = torch.tensor([[1.0, 2.0], [wrong, 1.0], [0.0, 1.0]])
    for measure in (
        lambda: Statistics().update(features),
        lambda: kernel_distance(features, torch.ones(3, 2)),
        lambda: kernel_distance(torch.ones(3, 2), features),
    ):
        with pytest.raises(NotFinite):
            measure()


@pytest.mark.parametrize("schedule", ["sigmoid", "trained"])
def test_a_noise_schedule_that_samplers_do_not_know_is_trained_and_previewed(schedule, tmp_path):
    betas = {"beta_schedule": "sigmoid"}
    if schedule == "trained":
        betas = {"trained_betas": torch.linspace(1e-4, 0.02, 1000).tolist()}
    folder = model(tmp_path / "own", **betas)
    words = ["train", *TINY_TRAIN, "num_steps=2", f"model={folder}/", "passport.contradicted=train"]
    made = done(words, tmp_path)
    assert (made / "samples" / "grid.png").is_file()
    config = json.loads(next(made.glob(f"weights/*/scheduler/{SCHEDULER}")).read_text())
    assert betas.items() <= config.items()


def test_a_preview_that_fails_is_a_warning(tmp_path):
    code, text = run(["train", *TINY_TRAIN, "num_steps=2"], tmp_path, NO_SAMPLER)
    assert code == 0, text
    assert "cannot sample" in text
    assert list(tmp_path.glob(f"runs/*/*/*/weights/*/{UNET}"))
    assert not list(tmp_path.glob("runs/*/*/*/samples/grid.png"))


CASES = {
    "prediction type": ({"drop": ["prediction_type"]}, {"prediction_type": "v_prediction"}),
    "timesteps": ({"drop": ["num_train_timesteps"]}, {"num_train_timesteps": 4000}),
    "zero terminal SNR": ({"drop": ["rescale_betas_zero_snr"]}, {"rescale_betas_zero_snr": True}),
    "betas": ({}, {"trained_betas": torch.linspace(1e-4, 0.03, 1000).tolist()}),
    "attention heads": (
        {"drop": ["attention_head_dim"], "part": "unet"},
        {"attention_head_dim": 4, "part": "unet"},
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_defaults_that_a_base_leaves_unsaid_are_compared(kind, tmp_path):
    unsaid, said = CASES[kind]
    base, expert = model(tmp_path / "base", **unsaid), model(tmp_path / "expert", **said)
    (key,) = said.keys() - {"part"}
    code, text = run(["merge", f"model={base}/", f"inputs.experts=[{expert}/,{base}/]"], tmp_path)
    assert code == 2, text
    assert f"{expert} has {key}=" in text
    again = shutil.copytree(base, tmp_path / "again")
    code, text = run(["merge", f"model={base}/", f"inputs.experts=[{base}/,{again}/]"], tmp_path)
    assert code == 0, text  # and what is unsaid on both sides is the same


def test_experts_of_other_predictions_are_not_routed_or_searched(tmp_path):
    one, other = (
        model(tmp_path / name, **changed)
        for name, changed in (("eps", {"drop": ["prediction_type"]}), ("v", {"prediction_type": "v_prediction"}))
    )  # fmt: skip
    for folder, low, high in ((one, 0, 500), (other, 500, 1000)):
        about = {"range": [low, high], "num_timesteps": 1000}
        (folder / "deme.json").write_text(json.dumps(about))
    experts = f"inputs.experts=[{one}/,{other}/]"
    for words in (["evaluate", *FEW, "source=experts", experts], ["search", experts]):
        code, text = run([*words, "data=digits"], tmp_path)
        assert code == 2, text
        assert f"{other} has prediction_type=v_prediction" in text


def test_noise_prediction_is_not_sampled_where_there_is_no_signal(tmp_path):
    folder = model(tmp_path / "zero", rescale_betas_zero_snr=True)
    words = ["sample", f"run={{zero: {folder}}}", "num_images=2", "out=o.png"]
    code, text = run([*words, "sampler.timestep_spacing=trailing"], tmp_path)
    assert code == 2, text
    assert "type: sampler.timestep_spacing=leading" in text
    code, text = run([*words, "sampler.timestep_spacing=leading"], tmp_path)
    assert code == 0, text


@pytest.mark.parametrize("words", [["p2", "weighting.gamma=inf"], ["min_snr", "weighting.gamma=inf"],
                                   ["p2", "weighting.gamma=300"]])  # fmt: skip
def test_a_weighting_of_nothing_is_refused(words, tmp_path):
    code, text = run(["train", "weighting=" + words[0], words[1], *TINY_TRAIN, "model=digits_base",
                      "weighting.k=1e9" if "300" in words[1] else "seed=0"], tmp_path)  # fmt: skip
    assert code == 2, text
    assert not list(tmp_path.glob("runs/*/*/*/checkpoints/*"))
