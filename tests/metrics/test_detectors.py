"""Feature networks: against other implementations, and how their weights are found, checked and read."""

from __future__ import annotations

import json

import inception_golden
import numpy as np
import pytest
import torch

from eg3d.checkpoints import manifest
from eg3d.metrics import detectors
from eg3d.metrics.detectors import Description, detector_identity, load_detector
from eg3d.metrics.inception import Inception, resized_as_tensorflow1
from eg3d.metrics.random_convolutions import NUM_FEATURES
from eg3d.metrics.vgg16 import VGG16, lpips_distance, lpips_weights

IMAGES = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_inception_equals_the_golden_outputs_of_torch_fidelity():
    with torch.device("meta"):
        network = Inception()
    network.load_state_dict(inception_golden.made_weights(network), assign=True)
    golden = np.load(inception_golden.GOLDEN, allow_pickle=False)
    with torch.no_grad():
        features, probabilities = network.eval()(inception_golden.made_images())
    scale = np.abs(golden["features"]).max()
    np.testing.assert_allclose(features, golden["features"], atol=1e-5 * scale)
    np.testing.assert_allclose(probabilities, golden["probabilities"], rtol=1e-3, atol=1e-7)


def test_tensorflow_resize_reads_at_whole_steps_from_the_corner():
    ramp = torch.arange(4.0).reshape(1, 1, 1, 4).expand(1, 1, 4, 4)
    assert resized_as_tensorflow1(ramp, 8)[0, 0, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]
    assert torch.equal(resized_as_tensorflow1(ramp, 4), ramp)
    assert resized_as_tensorflow1(ramp, 2)[0, 0, 1].tolist() == [0, 2]


def small_vgg() -> VGG16:
    """VGG-16 whose fully connected layers, four fifths of it, have no memory; small weights from a seed."""
    with torch.device("meta"):
        vgg = VGG16()
    vgg.features.to_empty(device="cpu")
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in vgg.features.parameters():
            fan_in = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 100
            parameter.copy_(torch.randn(parameter.shape, generator=rng) * (2 / fan_in) ** 0.5)
    return vgg.eval().requires_grad_(False)


def test_vgg16_has_the_published_size_and_names():
    with torch.device("meta"):
        state = VGG16().state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 138_357_544  # the count in every table of the network
    convolutions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    names = [f"features.{i}" for i in convolutions] + [f"classifier.{i}" for i in (0, 3, 6)]
    assert sorted(state) == sorted(f"{name}.{kind}" for name in names for kind in ("weight", "bias"))


def test_lpips_equals_torchmetrics(monkeypatch):
    import torchmetrics.functional.image.lpips as theirs

    vgg = small_vgg()
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda net, pretrained=False: vgg.features)
    network = theirs._LPIPS(pretrained=True, net="vgg", eval_mode=True)
    rng = torch.Generator().manual_seed(1)
    first, second = (torch.rand(2, 3, 32, 32, generator=rng) * 2 - 1 for _ in range(2))
    with torch.no_grad():
        expected = network(first, second).flatten()
        found = lpips_distance(vgg, lpips_weights(), first, second)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert found.min() > 0 and lpips_distance(vgg, lpips_weights(), first, first).abs().max() == 0


def test_the_stand_in_says_so_and_compares_pictures():
    detector = load_detector("random_convolutions")
    assert detector.identity == detector_identity("random_convolutions")
    assert detector.identity["is_stand_in"] and "stand-in" in detector.identity["name"]
    found = detector.describe(IMAGES)
    assert found.features.shape == (3, NUM_FEATURES) and found.probabilities is None
    pictures = IMAGES.float() / 127.5 - 1
    assert detector.distance(pictures, pictures).tolist() == [0, 0, 0]
    assert (detector.distance(pictures, pictures.flip(0))[[0, 2]] > 0).all()


def test_a_detector_of_ones_own(monkeypatch, request):
    monkeypatch.syspath_prepend(request.path.parent)
    detector = load_detector("toy_detector:make")
    assert isinstance(detector.describe(IMAGES), Description) and detector.describe(IMAGES).features.shape == (3, 3)
    for name, message in [
        ("toy_detector:broken", "returned a str without describe"),
        ("toy_detector:nothing", "cannot be made"),
        ("no_such_module:make", "cannot be made"),
        ("resnet", "not one of inception, vgg16, random_convolutions"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            load_detector(name)
        assert "\n" not in str(caught.value)


def test_the_manifest_names_the_published_weights():
    entries = manifest.read_manifest()
    for name, start in (("inception", "6726825d"), ("vgg16", "397923af")):  # the file names carry the first digits
        entry = entries[detectors.WEIGHTS[name]]
        assert entry["sha256"].startswith(start) and start in entry["file"] and entry["source"].startswith("https://")


@pytest.fixture
def weights_of(tmp_path, monkeypatch):
    """Makes a manifest of its own with an Inception file of the given bytes (None = no file)."""

    def make(content: bytes | None, sha256: str = "") -> None:
        path = tmp_path / "inception.pth"
        if content is not None:
            path.write_bytes(content)
        entry = {
            "file": path.name,
            "sha256": sha256 or (manifest.sha256_of(path) if content is not None else "0" * 64),
            "licence": "none",
            "source": "https://example.org/weights",
        }
        listing = tmp_path / "manifest.json"
        listing.write_text(json.dumps({"checkpoints": {detectors.WEIGHTS["inception"]: entry}}))
        resolve = manifest.resolve
        monkeypatch.setattr(detectors, "resolve", lambda name: resolve(name, manifest=listing))

    return make


def test_missing_and_foreign_weights_get_one_line(weights_of):
    weights_of(None)
    with pytest.raises(FileNotFoundError, match=r"inception\.pth is missing; get it from https://example") as caught:
        load_detector("inception")
    assert "--detector random_convolutions" in str(caught.value) and "\n" not in str(caught.value)
    weights_of(b"other bytes", sha256="1" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        load_detector("inception")


def test_weights_are_read_as_tensors_alone(tmp_path, weights_of):
    """The state dict is used; a file that would call something, and ones of another network, are refused."""

    class Trap:
        def __reduce__(self):
            return print, (f"ran, {tmp_path}",)

    path = tmp_path / "file.pth"
    with torch.device("meta"):
        expected = Inception().state_dict()
    torch.save({"features": torch.zeros(1), "trap": Trap()}, path)
    for wrong, message in [
        (path.read_bytes(), "not a file of tensors alone"),
        (b"PK\x03\x04 no zip", "not a file of tensors alone"),
        (b"", "not a file of tensors alone"),
        (_saved(path, {"fc.weight": torch.zeros(3)}), "does not fit Inception: .* tensors differ"),
        (_saved(path, [torch.zeros(3)]), "expected a state dict"),
    ]:
        weights_of(wrong)
        with pytest.raises(ValueError, match=message) as caught:
            load_detector("inception")
        assert "\n" not in str(caught.value)
    counts = [name for name in expected if name.endswith("num_batches_tracked")]
    tensors = {name: torch.zeros(1).expand(t.shape) for name, t in expected.items() if name not in counts}
    weights_of(_saved(path, tensors))
    detector = load_detector("inception")
    sha256 = manifest.sha256_of(tmp_path / "inception.pth")
    assert detector.identity == {"name": "inception-2015-12-05", "sha256": sha256, "is_stand_in": False}
    assert not any(p.requires_grad for p in detector.network.parameters()) and not detector.network.training


def _saved(path, value) -> bytes:
    torch.save(value, path)
    return path.read_bytes()
