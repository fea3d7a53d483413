"""`deme verify` passes on an honest evaluation and fails on one that was altered afterwards, wherever that was."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from deme.metrics import Statistics, statistics_file
from deme.runs import identity_hash
from deme.system import files, tensors
from deme.system.paths import PACKAGE
from tests.pipeline.program import TINY_EVALUATE, TINY_EXPERTS, TINY_TRAIN, done, run

WEIGHTS = "weights/ema/unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A folder with a trained model, its evaluation, two experts and theirs."""
    folder = tmp_path_factory.mktemp("honest")
    trained = done(["train", *TINY_TRAIN], folder)
    one = done(
        [
            "evaluate",
            f"inputs.weights={trained.relative_to(folder)}",
            "metrics.kid=true",
            *TINY_EVALUATE,
        ],
        folder,
    )
    experts = [
        done(["train", f"expert={i}", *TINY_EXPERTS], folder).relative_to(folder) for i in (0, 1)
    ]
    given = f"inputs.experts=[{experts[0]},{experts[1]}]"
    two = done(
        [
            "evaluate",
            "source=experts",
            given,
            *TINY_EVALUATE,
            "sampler=ddpm",
            "sampler.num_inference_steps=20",
        ],
        folder,
    )
    return folder, trained.relative_to(folder), one.relative_to(folder), two.relative_to(folder)


@pytest.fixture
def copy(honest, tmp_path):
    """A copy of it, to alter by somebody who removes the sizes of its files, too."""
    shutil.copytree(honest[0], tmp_path / "copy")
    for file in tmp_path.glob("copy/runs/*/*/*/status.json"):
        status = json.loads(file.read_text())
        file.write_text(json.dumps({**status, "outputs": {}}))
    return tmp_path / "copy", *honest[1:]


def verify(folder, run_dir, *words):
    return run(["verify", f"run={run_dir}", "pick_seed=0", *words], folder)


def failed(text):
    return [line for line in text.splitlines() if line.startswith("  FAILED")]


def test_an_honest_run_passes_whoever_made_its_images(honest):
    folder, _, one, two = honest
    for run_dir in (one, two):
        code, text = verify(folder, run_dir)
        assert code == 0, text
        assert "64 regenerated images differ by" in text
        assert text.count("  ok ") >= 7
        assert not failed(text)
    assert "kid_digits, the spread of fd_digits" in verify(folder, one)[1]


def test_it_passes_from_another_directory_and_with_any_batch(honest, tmp_path):
    folder, _, one, _ = honest
    code, text = run(
        ["verify", f"run={folder / one}", "num_images=65", "batch_size=64", "compute=cpu"], tmp_path
    )
    assert code == 0, text
    assert verify(folder, one, "num_images=1")[0] == 0


def test_other_images_are_picked_every_time(honest):
    texts = {
        run(["verify", f"run={honest[2]}", "num_images=5"], honest[0])[1].split(
            "regenerated images"
        )[1]
        for _ in range(3)
    }
    assert len(texts) > 1


def test_a_folder_of_images_is_verified_too(honest, tmp_path):
    made = done(["evaluate", *TINY_EVALUATE, "save_images=png"], tmp_path)
    words = ["evaluate", "source=images", f"inputs.images={made}/samples/images", *TINY_EVALUATE]
    run_dir = done(words, tmp_path)
    assert verify(tmp_path, run_dir)[0] == 0
    pictures = sorted((made / "samples/images").iterdir())
    for picture in pictures[1:]:
        shutil.copyfile(pictures[0], picture)
    code, text = verify(tmp_path, run_dir)
    assert code == 4
    assert any("regenerated images" in line for line in failed(text))


def test_a_file_of_another_size_is_damaged_before_anything_is_regenerated(honest, tmp_path):
    shutil.copytree(honest[0], tmp_path / "copy")
    file = tmp_path / "copy" / honest[2] / "metrics.json"
    file.write_text(file.read_text().replace("0.", "1.") + " ")
    code, text = verify(tmp_path / "copy", honest[2])
    assert code == 4
    assert "is damaged: metrics.json has " in text


def test_altered_weights_fail(copy):
    folder, trained, one, _ = copy
    state = tensors.TensorFile(folder / trained / WEIGHTS).read_all()
    tensors.save(folder / trained / WEIGHTS, {name: value * 1.01 for name, value in state.items()})
    code, text = verify(folder, one)
    assert code == 4
    lines = failed(text)
    assert any("is what was evaluated" in line for line in lines)
    assert any("fd_digits: 64 regenerated images" in line for line in lines)
    assert any("loss: remeasured on 16 images" in line for line in lines)
    assert "checks failed, first: " in text


def reseal(run_dir: Path, **changes):
    """Edit a frozen config as somebody would who knows how it is sealed, and named."""
    file = run_dir / "config.yaml"
    config = yaml.safe_load(file.read_text())
    for key, value in changes.items():
        node = config
        *parents, last = key.split("__")
        for parent in parents:
            node = node[parent]
        node[last] = value
    inputs = json.loads((run_dir / "run.json").read_text())["inputs"]
    hashes = {name: list(places.values()) for name, places in inputs.items() if places}
    body = yaml.safe_dump(config, sort_keys=False)
    file.write_text(
        f"# deme run, format 2, identity {identity_hash(config, 'evaluate', hashes)}, "
        f"sha256 of the rest {files.sha256_text(body)}\n{body}"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"sample_seed": 1},
        {"sampler__num_inference_steps": 5},
        {"sampler__eta": 0.5},
        {"sampler__clip_sample": False},
    ],
    ids=str,
)
def test_an_altered_seed_or_sampler_fails_even_under_a_new_seal(changes, copy):
    folder, _, one, _ = copy
    reseal(folder / one, **changes)
    code, text = verify(folder, one)
    assert code == 4
    assert any("64 regenerated images" in line for line in failed(text))


def test_a_base_altered_a_little_fails(honest, tmp_path):
    model = Path(shutil.copytree(PACKAGE / "assets" / "digits_base", tmp_path / "model"))
    words = ["evaluate", "model=diffusers", "model.path=model", *TINY_EVALUATE]
    run_dir = done(words, tmp_path)
    assert verify(tmp_path, run_dir)[0] == 0
    weights = model / "unet/diffusion_pytorch_model.safetensors"
    state = tensors.TensorFile(weights).read_all()
    tensors.save(weights, {name: value * (1 + 1e-5) for name, value in state.items()})
    code, text = verify(tmp_path, run_dir)
    assert code == 4
    assert any(
        "model, data, weights of the metrics and all settings" in line for line in failed(text)
    )


def test_an_edited_config_fails_by_its_seal(copy):
    folder, _, one, _ = copy
    file = folder / one / "config.yaml"
    file.write_text(file.read_text().replace("sample_seed: 0", "sample_seed: 0 "))
    code, text = verify(folder, one)
    assert code == 4
    assert "FAILED  config.yaml" in text


LABELS = "metrics.json holds this run's metrics"
DAMAGED = "metrics.json is damaged: metrics."


@pytest.mark.parametrize(
    ("metric", "key", "value", "line"),
    [
        ("fd_digits", "value", 1.0, "the moments give"),
        ("fd_digits", "value", float("nan"), DAMAGED),
        ("fd_digits", "value", "20", DAMAGED),
        ("fd_digits", "n", 50_000, LABELS),
        ("fd_digits", "reference", "50,000 training images", LABELS),
        ("fd_digits", "implementation", "pytorch-fid", LABELS),
        ("fd_digits", "interval", [0.0, 1.0], LABELS),
        ("kid_digits", "value", 0.0, LABELS),  # by its interval
        ("fid_clean", "value", 1.9, DAMAGED),  # without what it is
        ("loss", "value", 0.01, "loss: metrics.json"),
        ("loss", "n", 10**6, LABELS),
        ("loss/0", "value", float("nan"), DAMAGED),
    ],
)
def test_an_altered_number_or_label_fails(metric, key, value, line, copy):
    folder, _, one, _ = copy
    file = folder / one / "metrics.json"
    stored = json.loads(file.read_text())
    stored["metrics"].setdefault(metric, {})[key] = value
    file.write_text(json.dumps(stored))
    code, text = verify(folder, one)
    assert code == 4
    assert any(line in found for found in [*failed(text), *text.splitlines()[:1]]), text
    assert "Traceback" not in text


def test_an_altered_cell_missing_metric_or_resamples_of_the_loss_fail(copy):
    folder, _, one, _ = copy
    file, resamples = folder / one / "metrics.json", folder / one / "replicates.json"
    before = json.loads(file.read_text())
    file.write_text(json.dumps({**before, "cell": {**before["cell"], "method": "deme_merged"}}))
    assert [LABELS in line for line in failed(verify(folder, one)[1])] == [True]
    file.write_text(
        json.dumps(
            {**before, "metrics": {k: v for k, v in before["metrics"].items() if k != "kid_digits"}}
        )
    )
    assert "kid_digits is missing" in failed(verify(folder, one)[1])[0]
    file.write_text(json.dumps(before))
    spread = json.loads(resamples.read_text())
    resamples.write_text(json.dumps({**spread, "loss": [value - 0.01 for value in spread["loss"]]}))
    assert any("resamples of loss" in line for line in failed(verify(folder, one)[1]))


@pytest.mark.parametrize("name", ["digits_fingerprints", "loss"])
def test_cut_files_fail_with_a_message(name, copy):
    folder, _, one, _ = copy
    file = folder / one / f"moments/{name}.safetensors"
    found = tensors.TensorFile(file).read_all()
    key, cut = (
        ("losses", (slice(None), slice(10))) if name == "loss" else ("fingerprints", slice(100))
    )
    tensors.save(file, {**found, key: found[key][cut]})
    code, text = verify(folder, one)
    assert code == 4
    assert len(failed(text)) == 1
    assert "Traceback" not in text


def test_moments_bent_to_fit_a_better_number_fail(copy):
    folder, _, one, _ = copy
    file = folder / one / "moments/digits.safetensors"
    moments = statistics_file.load(file)
    from deme.data import every
    from deme.data.digits import load_digits
    from deme.metrics import FrechetDistance
    from deme.metrics.digit_classifier import DigitFeatures

    real = Statistics().update(
        DigitFeatures("asset:digits_classifier.safetensors")(every(load_digits().held_out))
    )
    bent = Statistics.given(moments.count, 0.9 * moments.mean + 0.1 * real.mean, moments.covariance)
    statistics_file.save(file, bent)
    path = folder / one / "metrics.json"
    stored = json.loads(path.read_text())
    better = FrechetDistance(real)(bent)
    low, high = (
        end + better - stored["metrics"]["fd_digits"]["value"]
        for end in stored["metrics"]["fd_digits"]["interval"]
    )
    stored["metrics"]["fd_digits"] |= {"value": better, "interval": [low, high]}
    path.write_text(json.dumps(stored))
    code, text = verify(folder, one)
    assert code == 4
    assert any("moments and fingerprints belong together" in line for line in failed(text))


def test_fingerprints_bent_to_fit_the_moments_fail(copy):
    folder, _, one, _ = copy
    file = folder / one / "moments/digits_fingerprints.safetensors"
    prints = tensors.TensorFile(file).read("fingerprints")
    order = torch.randperm(len(prints), generator=torch.Generator().manual_seed(0))
    tensors.save(
        file, {"fingerprints": prints[order]}
    )  # the same moments, of images in another order
    code, text = verify(folder, one)
    assert code == 4
    (line,) = failed(text)
    assert "64 regenerated images" in line


def test_what_cannot_be_verified_is_refused(copy):
    folder, trained, one, _ = copy
    code, text = verify(folder, trained)
    assert code == 2
    assert f"{trained} is a run of deme train" in text
    assert "deme evaluate run" in text
    code, text = verify(folder, ".")
    assert code == 2
    assert "is not a run directory" in text
    (folder / one / "status.json").write_text('{"state": "running"}')
    code, text = verify(folder, one)
    assert code == 3
    assert "is not finished (state: running)" in text
    real = done(["evaluate", "source=real", *TINY_EVALUATE], folder)
    code, text = verify(folder, real)
    assert code == 2
    assert "measured real images" in text
