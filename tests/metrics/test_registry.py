"""Names of figures, what is measured for them, the cache, and any number of processes giving the same figures."""

from __future__ import annotations

import dataclasses
import os
import shutil
import zipfile

import numpy as np
import pytest
import torch

from eg3d.cameras import mirrored_labels
from eg3d.checkpoints.store import load_generator
from eg3d.data import ImageDataset
from eg3d.metrics import collect, measurements
from eg3d.metrics.collect import cache_path, measured
from eg3d.metrics.fid import frechet_distance, moments
from eg3d.metrics.measurements import FakeFeatures, GeneratedImages, PathLengths, RealFeatures, data_sha256
from eg3d.metrics.random_convolutions import random_features
from eg3d.metrics.registry import PUBLISHED, Evaluation, Metric, evaluate, figures, parse_metric, steps
from eg3d.pictures import to_uint8

CPU = torch.device("cpu")
STAND_IN = "random_convolutions"


@pytest.fixture
def images(toy_networks, toy_images) -> GeneratedImages:
    return GeneratedImages(network=str(toy_networks), data=str(toy_images), seed=3)


@pytest.mark.parametrize(
    ("name", "kind", "fakes", "reals", "is_full"),
    [
        ("fid50k_full", "fid", 50_000, None, True),
        ("kid50k_full", "kid", 50_000, 1_000_000, True),
        ("pr50k3_full", "pr", 50_000, 200_000, True),
        ("is50k", "is", 50_000, None, False),
        ("ppl2_wend", "ppl", 50_000, None, False),
        ("fid50k", "fid", 50_000, 50_000, False),
        ("kid50k", "kid", 50_000, 50_000, False),
        ("pr50k3", "pr", 50_000, 50_000, False),
        ("fid1k", "fid", 1000, 50_000, False),
        ("pr24", "pr", 24, 50_000, False),
        ("ppl8_wend", "ppl", 8, None, False),
    ],
)
def test_names(name, kind, fakes, reals, is_full):
    metric = parse_metric(name)
    assert (metric.name, metric.kind, metric.num_fakes, metric.is_full) == (name, kind, fakes, is_full)
    if metric.needs_reals:
        assert metric.max_reals == reals
    assert metric.default_detector == ("vgg16" if kind in ("pr", "ppl") else "inception")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fid", "unknown; known are fid50k_full"),
        ("is50k_full", "unknown"),
        ("fid50k_half", "unknown"),
        ("fid1", "at least 2"),
        ("eqt50k_int", "input transform"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(ValueError, match=message):
        parse_metric(name)


def test_published_names_are_all_understood(images):
    for name in PUBLISHED:
        assert set(steps(parse_metric(name), Evaluation(images))) >= {"fake"}


def test_full_figures_are_never_mirrored(images):
    mirrored = Evaluation(dataclasses.replace(images, is_mirrored=True))
    plain, full = steps(parse_metric("fid8"), mirrored), steps(parse_metric("fid8_full"), mirrored)
    assert plain["real"].count == 24 and plain["real"].measurement.is_mirrored
    assert plain["fake"].measurement.images.is_mirrored
    assert full["real"].count == 12 and not full["real"].measurement.is_mirrored
    assert not full["fake"].measurement.images.is_mirrored


def test_real_rows_are_the_images_in_order_and_then_their_mirrors(toy_images):
    rows = measured(RealFeatures(str(toy_images), STAND_IN, is_mirrored=True), 24, devices=[CPU])
    there = ImageDataset(toy_images).images(list(range(12)))
    torch.testing.assert_close(rows["features"], random_features(torch.cat([there, there.flip(-1)])))
    labels = ImageDataset(toy_images, mirror=True).labels
    assert torch.equal(labels[12:], mirrored_labels(labels[:12]))


def test_a_generated_image_has_its_own_latent_and_a_camera_of_the_data(images, toy_images):
    """Without noise and jitter the features are those of images that the generator makes on its own."""
    still = dataclasses.replace(images, noise_mode="const", is_jittered=False, psi=0.7)
    found = measured(FakeFeatures(still, STAND_IN), 6, devices=[CPU])["features"]
    session = still.open(CPU)
    z, c = session.latents_and_cameras(range(6))
    assert all((row == ImageDataset(toy_images).labels).all(1).any() for row in c)
    G = load_generator(images.network)
    pictures = G(z, c, truncation_psi=0.7, noise_mode="const").final
    torch.testing.assert_close(found, random_features(to_uint8(pictures.detach())), rtol=1e-4, atol=1e-5)
    again, _ = session.latents_and_cameras(range(4, 6))
    assert torch.equal(again, z[4:])
    alone = measured(FakeFeatures(dataclasses.replace(still, batch=1), STAND_IN), 6, devices=[CPU])["features"]
    torch.testing.assert_close(alone, found, rtol=1e-4, atol=1e-4)


def test_latents_are_standard_normal_and_cameras_spread(images):
    session = images.open(CPU)
    z, c = session.latents_and_cameras(range(1000), per_camera=2)
    assert z.shape == (2000, 8) and abs(float(z.mean())) < 0.03 and abs(float(z.std()) - 1) < 0.03
    assert len(torch.unique(c, dim=0)) == 12
    other = dataclasses.replace(images, seed=4).open(CPU).latents_and_cameras(range(2))[0]
    assert not torch.equal(other, z[[0, 2]])


def test_path_lengths_are_positive_shared_by_seed_and_zero_where_w_ends(images):
    measurement = PathLengths(images, STAND_IN)
    found = measured(measurement, 6, devices=[CPU])["distances"]
    assert found.shape == (6,) and (found > 0).all()
    assert torch.equal(measured(measurement, 6, devices=[CPU])["distances"], found)
    mean = measured(PathLengths(dataclasses.replace(images, psi=0.0), STAND_IN), 6, devices=[CPU])["distances"]
    assert (mean == 0).all()  # psi = 0: both ends of every path are the mean code


def test_path_lengths_need_a_detector_that_compares(images, monkeypatch, request):
    monkeypatch.syspath_prepend(request.path.parent)
    with pytest.raises(ValueError, match="compares no pictures"):
        measured(PathLengths(images, "toy_detector:make"), 4, devices=[CPU])


def test_two_processes_give_what_one_gives(images):
    """Noise and jitter included; an uneven number of groups, a last group that is not full."""
    progress = []
    measurement = FakeFeatures(images, STAND_IN)
    one = measured(measurement, 150, devices=[CPU])
    two = measured(measurement, 150, devices=[CPU, CPU], advance=progress.append)
    assert sum(progress) == 150 > 2 * measurement.group
    assert torch.equal(one["features"], two["features"])


@pytest.mark.slow
def test_a_failing_process_ends_the_collection(images):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        measured(FakeFeatures(dataclasses.replace(images, network="nowhere/x.safetensors"), STAND_IN), 10,
                 devices=[CPU, CPU])  # fmt: skip


def test_cached_rows_are_used_once_more_and_damaged_ones_are_not(images, tmp_path, monkeypatch, caplog):
    measurement, opened = FakeFeatures(images, STAND_IN), []
    original = GeneratedImages.open
    monkeypatch.setattr(GeneratedImages, "open", lambda self, device: opened.append(1) or original(self, device))
    first = measured(measurement, 5, devices=[CPU], cache=tmp_path)
    again = measured(measurement, 5, devices=[CPU], cache=tmp_path)
    assert len(opened) == 1 and torch.equal(first["features"], again["features"])
    file = next(tmp_path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-8])
    assert torch.equal(measured(measurement, 5, devices=[CPU], cache=tmp_path)["features"], first["features"])
    assert len(opened) == 2 and "damaged" in caplog.text


def test_the_key_covers_everything_that_changes_the_rows(images, toy_images, tmp_path, monkeypatch):
    def key(measurement, count=5):
        return collect.cache_key(measurement, count, CPU)

    other_data = tmp_path / "copy"
    shutil.copytree(toy_images, other_data)
    os.utime(other_data / "dataset.json")
    base = FakeFeatures(images, STAND_IN)
    assert key(FakeFeatures(dataclasses.replace(images, data=str(other_data)), STAND_IN)) == key(base)  # contents only
    (other_data / "00000" / "img00000003.png").write_bytes((toy_images / "00000" / "img00000004.png").read_bytes())
    changes = {
        "seed": 4, "psi": 0.5, "truncation_cutoff": 3, "noise_mode": "none", "is_jittered": False,
        "is_mirrored": True, "batch": 2, "net": "G", "data": str(other_data),
    }  # fmt: skip
    keys = [
        key(FakeFeatures(dataclasses.replace(images, **{name: value}), STAND_IN)) for name, value in changes.items()
    ]
    assert set(changes) == {field.name for field in dataclasses.fields(GeneratedImages)} - {"network"}
    keys += [key(base), key(base, 6), key(PathLengths(images, STAND_IN))]
    real = RealFeatures(str(toy_images), STAND_IN)
    mirrored = dataclasses.replace(real, is_mirrored=True)
    keys += [key(real), key(real, 6), key(mirrored), key(RealFeatures(str(other_data), STAND_IN))]
    monkeypatch.setattr(measurements, "detector_identity", lambda name: {"name": name, "sha256": "other"})
    keys += [key(base), key(real)]
    monkeypatch.setattr(measurements, "_code_sha256", lambda names: "other code")
    keys += [key(base), key(real)]
    assert len(set(keys)) == len(keys)
    assert len({cache_path(tmp_path, k) for k in keys}) == len(keys)
    with open(images.network, "rb") as file:
        content = file.read()
    (tmp_path / "same.safetensors").write_bytes(content)
    renamed = dataclasses.replace(images, network=str(tmp_path / "same.safetensors"))
    assert key(FakeFeatures(renamed, STAND_IN)) == key(base)


def test_data_sets_are_told_apart_by_their_contents(tmp_path):
    for name, content in (("a.zip", "same"), ("b.zip", "same"), ("c.zip", "other")):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr(zipfile.ZipInfo("x.txt"), content)
    hashes = [data_sha256(tmp_path / name) for name in ("a.zip", "b.zip", "c.zip")]
    assert hashes[0] == hashes[1] != hashes[2]


def test_fid_of_the_whole_is_what_its_parts_give(images, toy_images):
    result = evaluate(parse_metric("fid20_full"), Evaluation(images, detector=STAND_IN))
    real = random_features(ImageDataset(toy_images).images(list(range(12))))
    fake = measured(FakeFeatures(images, STAND_IN), 20, devices=[CPU])["features"]
    assert result["results"]["fid20_full"] == pytest.approx(frechet_distance(moments(real), moments(fake)), rel=1e-6)
    assert (result["num_real"], result["num_fake"]) == (12, 20)
    assert result["detector"]["is_stand_in"] and "stand-in" in result["detector"]["name"]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("kid8", ["kid8"]),
        ("pr8", ["pr8_precision", "pr8_recall"]),
        ("ppl6_wend", ["ppl6_wend"]),
    ],
)
def test_every_figure_is_finite_and_repeats(images, name, keys):
    evaluation = Evaluation(images, detector=STAND_IN)
    first = evaluate(parse_metric(name), evaluation)
    assert list(first["results"]) == keys and np.isfinite(list(first["results"].values())).all()
    assert evaluate(parse_metric(name), evaluation) == first


def test_scores_need_classes(images, monkeypatch, request):
    with pytest.raises(ValueError, match="detector with classes"):
        evaluate(parse_metric("is12"), Evaluation(images, detector=STAND_IN))
    monkeypatch.syspath_prepend(request.path.parent)
    result = evaluate(parse_metric("is12"), Evaluation(images, detector="toy_detector:make"))
    assert 1 <= result["results"]["is12_mean"] <= 3 and result["detector"]["name"] == "mean colours"


def test_sizes_must_fit(images, toy_images, tmp_path):
    folder = tmp_path / "large"
    shutil.copytree(toy_images, folder, ignore=shutil.ignore_patterns("depths.npy"))
    import PIL.Image

    for file in (folder / "00000").glob("*.png"):
        with PIL.Image.open(file) as image:
            image.resize((32, 32)).save(file)
    with pytest.raises(ValueError, match=r"images of 32 pixels, .* makes 16"):
        evaluate(parse_metric("fid8"), Evaluation(dataclasses.replace(images, data=str(folder)), detector=STAND_IN))


def test_figures_name_both_numbers_of_precision_and_recall():
    rows = {"features": torch.randn(9, 2, generator=torch.Generator().manual_seed(0))}
    assert figures(Metric("pr9", "pr", 9), rows, rows, seed=0) == {"pr9_precision": 1.0, "pr9_recall": 1.0}
