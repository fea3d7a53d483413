"""A finished training that goes on: equal to one longer run, and what slips are answered with."""

import pytest
import torch

from deme.runs import weights_folder
from deme.system.tensors import TensorFile
from tests.pipeline.program import TINY_TRAIN, done, run

FILE = "unet/diffusion_pytorch_model.safetensors"
KEPT = "progress.keep_checkpoint=true"
DEME = ["method=deme", "ranges.num_ranges=2", "expert=1"]


def words(steps, *more):
    return ["train", *TINY_TRAIN, f"num_steps={steps}", *DEME, *more]


def weights(run_dir, kind):
    return TensorFile(run_dir / "weights" / kind / FILE).read_all()


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    place = tmp_path_factory.mktemp("continue")
    return place, done(words(7, KEPT), place)


@pytest.mark.parametrize("ema", ["warmup", "post_hoc"])
def test_a_run_that_goes_on_is_the_longer_run_bit_for_bit(ema, tmp_path):
    options = [f"ema={ema}", *(["snapshots.every=4"] if ema == "post_hoc" else [])]
    short = done(words(7, KEPT, *options), tmp_path)
    assert (short / "checkpoints/last.ckpt").is_file()
    on = done(words(12, f"inputs.continue_from={short}", *options), tmp_path)
    assert not (on / "checkpoints/last.ckpt").exists()
    whole = done(words(12, *options), tmp_path)
    assert len({short, on, whole}) == 3
    kept = [sorted(p.name for p in one.glob("weights/snapshots/*")) for one in (on, whole)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == (3 if ema == "post_hoc" else 0)
    for kind in ("raw", "ema"):
        one, other = weights(on, kind), weights(whole, kind)
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert (on / "metrics.jsonl").read_text().count("\n") == 12
    assert "(from step 7)" in (on / "log.txt").read_text()
    again = done(words(12, f"inputs.continue_from={short}", *options), tmp_path)
    assert again == on


def test_it_can_go_on_twice(first):
    place, short = first
    second = done(words(9, KEPT, f"inputs.continue_from={short}"), place)
    third = done(words(12, f"inputs.continue_from={second}"), place)
    whole = done(words(12), place)
    assert all(torch.equal(weights(third, "raw")[n], v) for n, v in weights(whole, "raw").items())


@pytest.mark.parametrize(
    ("steps", "more", "code", "message"),
    [
        (7, [], 2, "num_steps=7 is the total, which includes the 7 steps"),
        (12, ["optimizer.lr=1e-3"], 2, "other settings, such as optimizer.lr"),
        (12, ["seed=1"], 2, "other settings, such as seed"),
    ],
)  # fmt: skip
def test_slips_are_told_before_any_work(steps, more, code, message, first):
    place, short = first
    before = sorted(place.glob("runs/*/*/*"))
    found, text = run(words(steps, f"inputs.continue_from={short}", *more), place)
    assert (found, message in text) == (code, True), text
    assert sorted(place.glob("runs/*/*/*")) == before


def test_a_kept_checkpoint_stays_when_the_run_is_typed_again(first):
    place, short = first
    assert done(words(7), place) == short
    assert (short / "checkpoints/last.ckpt").is_file()


def test_another_teacher_is_another_setting(first):
    place, short = first
    code, text = run(words(12, f"inputs.continue_from={short}", f"inputs.teacher={short}"), place)
    assert (code, "other settings, such as inputs.teacher" in text) == (2, True), text


def test_a_run_without_a_checkpoint_is_told(first):
    place, _ = first
    plain = done(words(5), place)
    code, text = run(words(8, f"inputs.continue_from={plain}"), place)
    assert code == 3
    assert "progress.keep_checkpoint=true" in text
    folder = weights_folder(plain)
    code, text = run(words(8, f"inputs.continue_from={folder}"), place)
    assert code == 2
    assert "is not a training run" in text
