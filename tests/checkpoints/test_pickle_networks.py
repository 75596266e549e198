"""What a published file says becomes the configuration, whatever variant it is, and every tensor finds its place."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import edited
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_pickle import (
    AXES,
    ODD_VALUES,
    Persistent,
    Sources,
    StoredAt,
    discriminator_record,
    dumps,
    generator_record,
    official_file,
    places,
    refusal,
    trace_source,
)
from tiny import tiny_discriminator_config, tiny_generator_config

from eg3d.cameras import CameraConfig
from eg3d.checkpoints.inert_pickle import RefusedPickleError
from eg3d.checkpoints.pickle_networks import PublishedFile
from eg3d.checkpoints.store import load_discriminator, load_generator
from eg3d.generators.eg3d import GeneratorConfig, TriPlaneGenerator
from eg3d.networks.discriminator import DiscriminatorConfig, DualDiscriminator
from eg3d.rendering.renderer import RenderingConfig
from eg3d.training.config import TrainConfig
from eg3d.training.loop import Trainer

CORRECTED = torch.tensor(
    [[[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1], [0, 1, 0]], [[0, 0, 1], [0, 1, 0], [1, 0, 0]]]
)


def tiny(**changes: Any) -> GeneratorConfig:
    return dataclasses.replace(tiny_generator_config(), **changes)


def written(folder: Path, data: bytes) -> Path:
    path = folder / "network-snapshot.pkl"
    path.write_bytes(data)
    return path


GENERATORS = {
    "faces": tiny(superresolution="8XDC", sr_input_resolution=4, mapping_layers=2, sr_num_fp16_res=4),
    "cats": tiny(superresolution="8X", sr_input_resolution=4, camera=CameraConfig(pivot=(0.0, 0.0, -0.06))),
    "cars": tiny(
        superresolution="2X",
        mapping_layers=8,
        condition_on_camera=False,
        c_scale=0.0,
        camera=CameraConfig(radius=1.7, pivot=(0.0, 0.0, 0.0), focal=1.7074),
        rendering=RenderingConfig(0.1, 2.6, 1.6, 6, 5, white_back=True),
    ),
    "256 pixels": tiny(superresolution="4X", sr_num_fp16_res=4),
    "reduced backbone": tiny(num_fp16_res=1, plane_resolution=16),
    "wide and shallow": tiny(z_dim=12, w_dim=10, mapping_layers=1, channel_base=128, channel_max=32),
    "rays that meet the box": tiny(rendering=RenderingConfig("auto", "auto", 1.0, 4, 0)),
    "noise": tiny(superresolution_noise_mode="random", sr_antialias=False),
    "another resolution in the object": tiny(neural_rendering_resolution=4),
}  # fmt: skip


@pytest.mark.parametrize("variant", GENERATORS)
def test_the_architecture_is_read_from_the_file(tmp_path: Path, variant: str) -> None:
    G = TriPlaneGenerator(GENERATORS[variant])
    loaded = load_generator(written(tmp_path, official_file(G_ema=G)))
    assert loaded.cfg == G.cfg
    assert loaded.neural_rendering_resolution == G.neural_rendering_resolution
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), G.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"num_fp16_res": 1}, {"dual_discrimination": False}, {"mapping_layers": 8}, {"freeze_layers": 3},
        {"mbstd_group_size": 4, "disc_c_noise": 0.5}, {"c_dim": 0}, {"img_resolution": 32, "channel_base": 128},
    ],
    ids=str,
)  # fmt: skip
def test_the_discriminator_is_read_from_the_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    cfg = dataclasses.replace(tiny_discriminator_config(), **changes)
    if cfg.c_dim == 0:
        cfg.mapping_layers = DiscriminatorConfig().mapping_layers
    D = DualDiscriminator(cfg)
    loaded = load_discriminator(written(tmp_path, official_file(D=D)))
    assert loaded.cfg == cfg
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), D.state_dict().values(), strict=True))


def test_images_are_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    G = TriPlaneGenerator(tiny()).eval()
    loaded = load_generator(written(tmp_path, official_file(G_ema=G)))
    z, c = torch.randn(2, 8), G.cfg.camera.label(torch.tensor([0.1, -0.2]))
    with torch.no_grad():
        for name, image in vars(G(z, c)).items():
            assert torch.equal(getattr(loaded(z, c), name), image)


def test_missing_keys_take_the_defaults_of_their_time(tmp_path: Path) -> None:
    """Older files lack these; without c_scale the label counts as zero."""
    late = ("c_scale", "c_gen_conditioning_zero", "superresolution_noise_mode", "decoder_lr_mul", "sr_antialias")
    rest = ("white_back", "disparity_space_sampling", "avg_camera_radius", "avg_camera_pivot", "clamp_mode")
    left_out = dict.fromkeys((*late, *rest))
    G = TriPlaneGenerator(tiny())
    cfg = load_generator(written(tmp_path, official_file(G_ema=G, **left_out))).cfg
    assert (cfg.c_scale, cfg.condition_on_camera, cfg.superresolution_noise_mode) == (0.0, True, "none")
    assert (cfg.decoder_lr_mul, cfg.sr_antialias, cfg.camera) == (1.0, True, CameraConfig(2.7, (0.0, 0.0, 0.0)))
    assert cfg.rendering == G.cfg.rendering


def test_unknown_arguments_are_of_no_interest(tmp_path: Path) -> None:
    G = TriPlaneGenerator(tiny())
    assert load_generator(written(tmp_path, official_file(G_ema=G, gpc_reg_prob=0.5, a_fork="x"))).cfg == G.cfg


@pytest.mark.parametrize(
    ("axes", "name"),
    [
        (AXES, "xy_xz_zx"),
        (StoredAt(AXES, "cuda:0"), "xy_xz_zx"),
        (StoredAt(AXES, "cuda:0", ("torch.cuda", "FloatStorage")), "xy_xz_zx"),
        (AXES.double(), "xy_xz_zx"),
        (CORRECTED, "xy_xz_zy"),
        (None, "xy_xz_zx"),
    ],
    ids=["published", "on a GPU", "of an older torch", "double", "corrected", "absent"],
)
def test_plane_axes(tmp_path: Path, axes: Any, name: str) -> None:
    G = TriPlaneGenerator(tiny())
    loaded = load_generator(written(tmp_path, official_file(G_ema=G, plane_axes=axes)))
    assert loaded.cfg.rendering.plane_axes == name


def test_weights_saved_on_a_gpu_load_on_a_cpu(tmp_path: Path) -> None:
    G = TriPlaneGenerator(tiny())
    record = generator_record(G, Sources(tmp_path / "ran"))
    weight = G.decoder.net[2].bias.detach()
    net = record.state["_modules"][4][1] if isinstance(record.state["_modules"], list) else record.state["_modules"]
    net["decoder"].state["_modules"]["net"].state["_modules"]["2"].state["_parameters"]["bias"] = StoredAt(
        weight, "cuda:7"
    )
    loaded = load_generator(written(tmp_path, dumps({"G_ema": record})))
    assert torch.equal(loaded.decoder.net[2].bias, weight)
    assert loaded.decoder.net[2].bias.device.type == "cpu"


def test_the_spread_of_the_labels_may_be_missing(tmp_path: Path) -> None:
    loaded = load_generator(written(tmp_path, edited(lambda state: state["_buffers"].pop("dataset_label_std"))))
    assert torch.equal(loaded.dataset_label_std, torch.zeros(25))


def test_half_precision_weights_are_read_as_numbers(tmp_path: Path) -> None:
    G = TriPlaneGenerator(tiny()).half()
    loaded = load_generator(written(tmp_path, official_file(G_ema=G)))
    assert loaded.decoder.net[0].weight.dtype == torch.float32
    assert torch.equal(loaded.decoder.net[0].weight, G.decoder.net[0].weight.float())


def test_cached_planes_and_hooks_are_ignored(tmp_path: Path) -> None:
    data = edited(
        lambda state: state.update(_last_planes=StoredAt(torch.ones(1, 96, 8, 8), "cuda:0"), _a_hook={1: "x"})
    )
    assert load_generator(written(tmp_path, data)).cfg == tiny()


def test_buffers_that_are_not_saved_are_not_expected(tmp_path: Path) -> None:
    data = edited(lambda s: (s["_buffers"].update(grid=torch.ones(3)), s["_non_persistent_buffers_set"].add("grid")))
    load_generator(written(tmp_path, data))


def test_what_else_a_file_says(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    G, D = TriPlaneGenerator(tiny()), DualDiscriminator(tiny_discriminator_config())
    file = PublishedFile(written(tmp_path, official_file(G, D, G_ema=G, trace=trace, p=0.25)))
    assert file.networks == ("G_ema", "G", "D")
    assert file.augmentation() == {"p": 0.25, "settings": {"xflip": 1, "scale_std": 0.2}}
    assert file.training_set()["class_name"] == "training.dataset.ImageFolderDataset"
    sources = file.network("G_ema").class_sources
    assert {"TriPlaneGenerator", "SynthesisLayer", "SuperresolutionHybrid2X"} <= set(sources)
    assert len(set(sources.values())) == 3  # triplane, networks_stylegan2, superresolution
    assert sources["TriPlaneGenerator"] == hashlib.sha256(trace_source("triplane", trace).encode()).hexdigest()
    assert PublishedFile(written(tmp_path, official_file(G_ema=G))).augmentation() == {}
    assert not trace.exists()


def test_training_starts_from_a_pickle(tmp_path: Path, train_config: Callable[..., TrainConfig]) -> None:
    G, D = TriPlaneGenerator(tiny()), DualDiscriminator(tiny_discriminator_config())
    path = written(tmp_path, official_file(G, D, G_ema=G))
    trainer = Trainer(train_config(start=str(path)))
    assert trainer.generator.cfg == G.cfg and trainer.discriminator.cfg == D.cfg
    assert torch.equal(trainer.average.decoder.net[0].weight, G.decoder.net[0].weight)


def test_networks_that_are_not_there(tmp_path: Path) -> None:
    path = written(tmp_path, official_file(G_ema=TriPlaneGenerator(tiny())))
    with pytest.raises(RefusedPickleError, match="holds no network 'D'; it holds G_ema"):
        load_discriminator(path)
    with pytest.raises(ValueError, match="G_ema is described by a GeneratorConfig, not a DiscriminatorConfig"):
        load_discriminator(path, net="G_ema")


def test_every_misfit_is_listed(tmp_path: Path) -> None:
    G = TriPlaneGenerator(tiny())
    G.decoder.net[0].bias = None
    G.decoder.net[2].bias = torch.nn.Parameter(torch.zeros(9))
    for k in range(30):
        G.backbone.register_buffer(f"extra{k}", torch.zeros(1))
    with pytest.raises(RefusedPickleError, match="do not fit") as caught:
        load_generator(written(tmp_path, official_file(G_ema=G)))
    text = str(caught.value)
    assert "missing: decoder.net.0.bias;" in text
    assert "unknown: backbone.extra0, backbone.extra1, " in text and "and 10 more" in text
    assert text.endswith("mis-shaped: decoder.net.2.bias [9] instead of [5]")


def part(record: Persistent, name: str) -> Persistent:
    """A sub-module of a stand-in."""
    return record.state["_modules"][name]


def test_the_early_super_resolution_is_never_antialiased(tmp_path: Path) -> None:
    """SuperresolutionHybridDeepfp32 is 4X in single precision, whatever sr_antialias says."""
    G = TriPlaneGenerator(tiny(superresolution="4X", sr_num_fp16_res=0, sr_antialias=False))
    record = generator_record(G, Sources(tmp_path / "ran"), sr_antialias=True)
    part(record, "superresolution").class_name = "SuperresolutionHybridDeepfp32"
    loaded = load_generator(written(tmp_path, dumps({"G_ema": record})))
    assert loaded.cfg == G.cfg and not loaded.superresolution.antialias
    z, c = torch.randn(1, 8), G.cfg.camera.label()
    with torch.no_grad():
        assert torch.equal(loaded(z, c).final, G.eval()(z, c).final)


RELATIVES = {
    "PanoHead": (("TriPlaneGenerator", "t_mapping"), ("MaskDualDiscriminatorV2", "")),
    "SphereHead": (("TriPlaneGenerator", "ConvA"), ("HoloDiscriminator", "")),
    "HyPlaneHead": (("TriPlaneSingSphGenerator_flatten", "t_mapping"), ("SHDiscriminator", "")),
}


@pytest.mark.parametrize("family", RELATIVES)
def test_relatives_are_called_by_their_names(tmp_path: Path, family: str) -> None:
    sources = Sources(tmp_path / "ran")
    G = generator_record(TriPlaneGenerator(tiny()), sources)
    D = discriminator_record(DualDiscriminator(tiny_discriminator_config()), sources)
    for record, (class_name, name) in zip((G, D), RELATIVES[family], strict=True):
        record.class_name = class_name
        record.state["_modules"] |= {name: part(part(G, "backbone"), "mapping")} if name else {}
    path = written(tmp_path, dumps({"G_ema": G, "D": D}))
    said = f"is a {family} network; it is not read yet, only networks of EG3D are"
    assert refusal(lambda: load_generator(path)) == f"{path}, G_ema: {said}"
    assert refusal(lambda: load_discriminator(path)) == f"{path}, D: {said}"
    assert refusal(lambda: load_generator(written(tmp_path, dumps(G)))) == f"{path} {said}"


def test_a_generator_by_itself_is_told_what_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path, dumps(generator_record(TriPlaneGenerator(tiny()), Sources(tmp_path / "ran"))))
    said = refusal(lambda: load_generator(path))
    assert said.startswith(f"{path} holds one network by itself ('TriPlaneGenerator'), not the table of networks")
    assert "save {'G_ema': network} instead" in said


# ---------------------------------------------------------------------------------------------- odd attributes


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(-1, len(ODD_VALUES) - 1)), min_size=1, max_size=3
    )
)
def test_odd_attributes_load_or_are_refused(tmp_path: Path, changes: list[tuple[float, int]]) -> None:
    """Values of any kind in any place of an otherwise well-formed file."""
    sources = Sources(tmp_path / "ran")
    G, D = TriPlaneGenerator(tiny()), DualDiscriminator(tiny_discriminator_config())
    root = {"G_ema": generator_record(G, sources), "D": discriminator_record(D, sources)}
    for share, odd in changes:
        found = places(root, [])
        if found:
            table, key = found[int(share * len(found))]
            table[key] = copy.deepcopy(ODD_VALUES[odd])  # later changes may reach into it
            if odd < 0:
                del table[key]
    path = written(tmp_path, dumps(root))
    for load in (load_generator, load_discriminator):
        assert refusal(functools.partial(load, path)).startswith((str(path), "loaded"))
