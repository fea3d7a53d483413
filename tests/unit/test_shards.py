"""Features shard by shard: exact, resumable, shared by processes; references kept by content."""

import json
import multiprocessing
import time

import numpy as np
import pytest
import torch

from deme.data import InMemoryImages, SomeImages, batches
from deme.metrics import FeatureShards, Statistics, measured, reference, statistics_file
from deme.metrics.digit_classifier import DigitFeatures
from deme.metrics.fingerprint import (
    DRIFT_TOLERANCE,
    LENGTH,
    differences,
    drift,
    fingerprints,
    moments_error,
)
from deme.system import files, locked, tensors
from deme.system.errors import BadConfig, MissingInput, WorkFailed

IMAGES = InMemoryImages(
    torch.randint(0, 256, (50, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
)


class Means:
    """Features that are row means of the picture; counts its calls."""

    name, weights, suffix, frechet_name, dimension = "row means", "0" * 64, "means", "fd_means", 8

    def __init__(self):
        self.seen = 0

    def __call__(self, pixels):
        self.seen += len(pixels)
        return pixels[:, 0].float().mean(2)


def pixels(indices):
    return batches(IMAGES, 4, indices)


def test_every_image_is_extracted_once_in_order(tmp_path):
    shards, means = FeatureShards(tmp_path, 50, 15), Means()
    shards.fill(pixels, [means])
    assert means.seen == 50
    torch.testing.assert_close(torch.cat(list(shards.read("means"))), Means()(IMAGES.pixels))
    assert [len(part) for part in shards.read("means")] == [15, 15, 15, 5]
    shards.fill(pixels, [means])
    assert means.seen == 50


def test_what_a_killed_process_left_is_kept_and_the_rest_made(tmp_path):
    shards, means = FeatureShards(tmp_path, 50, 10), Means()

    def killed(indices):
        if indices[0] == 30:
            raise KeyboardInterrupt
        return pixels(indices)

    with pytest.raises(KeyboardInterrupt):
        shards.fill(killed, [means])
    assert means.seen == 30
    shards.fill(pixels, [means])
    assert means.seen == 50
    assert shards.missing() == []
    torch.testing.assert_close(torch.cat(list(shards.read("means"))), Means()(IMAGES.pixels))


def _slow_fill(folder, log):
    means = Means()

    def slow(indices):
        time.sleep(0.1)
        return pixels(indices)

    FeatureShards(folder, 50, 5).fill(slow, [means])
    log.put(means.seen)


def test_two_processes_share_the_shards(tmp_path):
    context = multiprocessing.get_context("fork")
    log = context.Queue()
    workers = [context.Process(target=_slow_fill, args=(tmp_path, log)) for _ in range(2)]
    for worker in workers:
        worker.start()
    seen = [log.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(seen) == 50
    assert min(seen) > 0
    torch.testing.assert_close(
        torch.cat(list(FeatureShards(tmp_path, 50, 5).read("means"))), Means()(IMAGES.pixels)
    )


def test_a_helper_stops_when_the_work_is_finished_and_cleared_away(tmp_path):
    means = Means()
    FeatureShards(tmp_path, 50, 10).fill(pixels, [means], finished=lambda: True)
    assert means.seen == 0


def test_nan_features_and_wrong_counts_are_refused(tmp_path):
    class Broken(Means):
        def __call__(self, pixels):
            return super().__call__(pixels) * float("nan")

    with pytest.raises(WorkFailed, match=r"row means: .* images 0 to 14"):
        FeatureShards(tmp_path, 50, 15).fill(pixels, [Broken()])
    with pytest.raises(WorkFailed, match=r"14 .* 15 .* number 0"):
        FeatureShards(tmp_path, 50, 15).fill(lambda indices: pixels(indices[1:]), [Means()])
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_reference_is_measured_once_and_found_by_content(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "SHARD", 20)
    means = Means()
    first = measured(IMAGES, "images", means, tmp_path)
    assert first.name == f"50 images ({IMAGES.content_hash()[:8]})"
    assert first.statistics.count == means.seen == 50
    torch.testing.assert_close(
        first.statistics.covariance, torch.cov(Means()(IMAGES.pixels).double().T)
    )
    torch.testing.assert_close(first.features, Means()(IMAGES.pixels))
    copy = InMemoryImages(IMAGES.pixels.clone())
    again = measured(copy, "images", means, tmp_path)
    assert means.seen == 50
    torch.testing.assert_close(
        again.statistics.covariance, first.statistics.covariance, rtol=1e-14, atol=0
    )
    copy.pixels[0, 0, 0, 0] += 1
    measured(copy, "images", means, tmp_path)
    assert means.seen == 100
    measured(SomeImages(IMAGES, range(10)), "images", means, tmp_path)
    assert means.seen == 110
    means.weights = "1" * 64
    measured(IMAGES, "images", means, tmp_path)
    assert means.seen == 160
    assert not list(tmp_path.rglob("*.partial"))
    abouts = [json.loads(file.read_text()) for file in tmp_path.rglob("about.json")]
    assert {about["extractor"] for about in abouts} == {"row means"}


def test_of_a_large_set_a_fixed_subset_of_features_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "SHARD", 20)
    monkeypatch.setattr(reference, "SUBSET", 30)
    found = measured(IMAGES, "images", Means(), tmp_path)
    rows = {tuple(row.tolist()) for row in Means()(IMAGES.pixels)}
    assert found.features.shape == (30, 8)
    assert len({tuple(row.tolist()) for row in found.features} & rows) == 30
    assert found.statistics.count == 50


def _measure(folder, log):
    means = Means()
    slow = means.__call__

    class Slow(Means):
        def __call__(self, pixels):
            time.sleep(0.02)
            return slow(pixels)

    measured(IMAGES, "images", Slow(), folder)
    log.put(means.seen)


def test_processes_that_want_the_same_reference_measure_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    log = context.Queue()
    workers = [context.Process(target=_measure, args=(tmp_path, log)) for _ in range(3)]
    for worker in workers:
        worker.start()
    seen = [log.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(seen) == [0, 0, 50]


# Statistics files


def statistics(n=40, d=6):
    return Statistics().update(torch.randn(n, d, generator=torch.Generator().manual_seed(1)))


def test_statistics_survive_their_file_bit_for_bit_but_for_the_scale(tmp_path):
    one = statistics()
    statistics_file.save(tmp_path / "s.safetensors", one)
    two = statistics_file.load(tmp_path / "s.safetensors")
    assert two.count == 40
    assert torch.equal(one.mean, two.mean)
    torch.testing.assert_close(one.covariance, two.covariance, rtol=1e-14, atol=0)
    assert torch.equal(two.covariance, two.covariance.T)
    tensors.save(tmp_path / "other.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(WorkFailed, match=r"other\.safetensors"):
        statistics_file.load(tmp_path / "other.safetensors")


def test_files_of_pytorch_fid_and_clean_fid_are_read_and_ours_by_them(tmp_path):
    one, means = (
        Statistics().update(torch.randn(40, 8, generator=torch.Generator().manual_seed(1))),
        Means(),
    )
    np.savez(tmp_path / "theirs.npz", mu=one.mean.numpy(), sigma=one.covariance.numpy())
    two, origin = statistics_file.load_npz(tmp_path / "theirs.npz", means)
    torch.testing.assert_close(two.covariance, one.covariance, rtol=1e-14, atol=0)
    digest = files.sha256(tmp_path / "theirs.npz")[:8]
    assert origin == f"an unstated number of images (theirs.npz {digest}, extractor not stated)"
    statistics_file.save_npz(tmp_path / "ours.npz", one, means, "40 images")
    with np.load(tmp_path / "ours.npz") as stored:
        np.testing.assert_array_equal(stored["mu"], one.mean)
        np.testing.assert_array_equal(stored["sigma"], one.covariance)
    three, origin = statistics_file.load_npz(tmp_path / "ours.npz", means)
    assert three.count == 40
    assert origin.startswith("40 images (ours.npz ")


def test_statistics_of_another_extractor_or_other_weights_are_refused(tmp_path):
    one, means = (
        Statistics().update(torch.randn(40, 8, generator=torch.Generator().manual_seed(1))),
        Means(),
    )
    statistics_file.save_npz(tmp_path / "ours.npz", one, means, "40 images")
    for attribute, value in (("name", "column means"), ("weights", "1" * 64)):
        other = Means()
        setattr(other, attribute, value)
        with pytest.raises(
            BadConfig,
            match=r"row means, weights 0{12}\n(?s:.*)type: deme stats out=",
        ):
            statistics_file.load_npz(tmp_path / "ours.npz", other)
    np.savez(tmp_path / "small.npz", mu=np.zeros(7), sigma=np.eye(7))
    with pytest.raises(
        BadConfig, match=r"small\.npz .* 7 numbers per image\n(?s:.*)type: deme stats out="
    ):
        statistics_file.load_npz(tmp_path / "small.npz", means)


def test_damaged_statistics_files_are_refused(tmp_path):
    one, means = (
        Statistics().update(torch.randn(40, 8, generator=torch.Generator().manual_seed(1))),
        Means(),
    )
    mean, covariance = one.mean.numpy(), one.covariance.numpy()
    with pytest.raises(MissingInput, match=r"none\.npz"):
        statistics_file.load_npz(tmp_path / "none.npz", means)
    with pytest.raises(MissingInput, match="folder"):
        statistics_file.load_npz(tmp_path, means)
    np.savez(tmp_path / "good.npz", mu=mean, sigma=covariance)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:100])
    np.savez(tmp_path / "no.npz", mean=mean)
    np.savez(tmp_path / "nan.npz", mu=mean * np.nan, sigma=covariance)
    np.savez(tmp_path / "text.npz", mu=np.array(["a"] * 8), sigma=covariance)
    np.savez(tmp_path / "lopsided.npz", mu=mean, sigma=np.triu(covariance))
    for name in ("cut", "no", "nan", "text", "lopsided"):
        with pytest.raises(WorkFailed, match=f"{name}.npz"):
            statistics_file.load_npz(tmp_path / f"{name}.npz", means)


# Fingerprints


def test_fingerprints_belong_to_their_moments_and_to_no_others():
    features = 5 + torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    prints = fingerprints(features, "x")
    assert prints.shape == (400, LENGTH)
    moments = Statistics().update(features)
    assert moments_error(prints, moments, "x") < 1e-5
    assert moments_error(prints, moments, "y") > 0.1  # another extractor's projections
    shifted = Statistics().update(features + 0.01)
    assert moments_error(prints, shifted, "x") > 1e-3
    fewer = Statistics().update(features[:399])
    assert moments_error(prints, fewer, "x") > 1e-4


def test_drift_sees_a_mean_that_was_bent_where_fingerprints_do_not_look():
    features = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    moments, picks = Statistics().update(features), features[:64]
    draw = torch.Generator().manual_seed(3)
    assert drift(picks, moments, draw) < DRIFT_TOLERANCE
    bent = Statistics.given(400, moments.mean + 1.0, moments.covariance)
    assert drift(picks, bent, draw) > DRIFT_TOLERANCE


def test_images_that_are_all_the_same_have_fingerprints_that_agree():
    features = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)).expand(50, -1)
    prints, moments = fingerprints(features, "x"), Statistics().update(features)
    assert moments_error(prints, moments, "x") < 1
    assert float(differences(prints[:5], prints[:5], prints).max()) == 0
    assert drift(features[:5], moments, torch.Generator().manual_seed(0)) < DRIFT_TOLERANCE


def test_a_change_of_one_image_shows_in_its_fingerprint_alone():
    features = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    changed = features.clone()
    changed[7] = torch.randn(64, generator=torch.Generator().manual_seed(1))
    prints = fingerprints(features, "x")
    apart = differences(fingerprints(changed, "x"), prints, prints)
    assert float(apart[7]) > 0.5
    assert float(apart[torch.arange(30) != 7].max()) == 0


def test_a_lock_that_somebody_holds_is_not_taken(tmp_path):
    with locked(tmp_path / "lock", None) as mine:
        assert mine
        with locked(tmp_path / "lock", None) as second:
            assert not second
    with locked(tmp_path / "lock", None) as mine:
        assert mine


def test_the_digits_features_have_the_extractors_interface():
    features = DigitFeatures("asset:digits_classifier.safetensors").to("cpu")
    assert features(IMAGES.pixels).shape == (50, features.dimension)
    assert len(features.weights) == 64
