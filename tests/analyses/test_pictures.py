"""Pictures of the same seeds before and after: what they are of, and the sheet drawn from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import trimesh

from dataset_preprocessing.human_heads.codes import NUM_CODES, head_codes
from dataset_preprocessing.human_heads.portrait import Portrait, portrait
from paper_result_analyses.arms import CONTROL, START, TUNED
from paper_result_analyses.figures.sheets import ANGLE, NOT_COMPARED, RENDER, SURFACE, TRUE_HEAD, draw_pair
from paper_result_analyses.measure import truth
from paper_result_analyses.measure.pictures import COLUMNS, MEASURE, PicturesConfig, angles, pictures, surfaces
from paper_result_analyses.measure.tables import Tables
from reward_model_training.tables import write_table
from tests.analyses.tiny_run import SIDE, tiny_generator

CFG = PicturesConfig(num_seeds=2, resolution=48, grid_resolution=16, border=0.05)


@pytest.fixture(scope="module")
def subject() -> Portrait:
    return portrait(head_codes(5))


def mesh_of(subject: Portrait) -> trimesh.Trimesh:
    return trimesh.Trimesh(subject.vertices, subject.faces, process=False)


def test_the_true_surface_has_no_angle_to_itself_and_others_have(subject: Portrait) -> None:
    """Over face and sides; a rougher surface is worse, and where there is none nothing is compared."""
    G, known = tiny_generator(), mesh_of(subject)
    own = angles(known, G, subject, CFG)
    is_compared = own != NOT_COMPARED
    assert 0.1 < is_compared.mean() < 0.6 and own[is_compared].mean() < 1.5  # normals of faces, not of the model
    rough = known.copy()
    rough.vertices += np.random.default_rng(0).normal(0, 0.002, rough.vertices.shape)
    found = angles(rough, G, subject, CFG)
    assert found[is_compared & (found != NOT_COMPARED)].mean() > own[is_compared].mean() + 5
    assert (angles(None, G, subject, CFG) == NOT_COMPARED).all()
    assert (angles(known.copy().apply_translation((5, 0, 0)), G, subject, CFG) == NOT_COMPARED).all()


def test_angles_are_the_errors_of_the_measure_truth(subject: Portrait) -> None:
    """The same normals, pixels and mean as `truth` has for that camera."""
    G, mesh = tiny_generator(), trimesh.creation.icosphere(subdivisions=4, radius=0.25)
    found = angles(mesh, G, subject, CFG)
    c2w, focal = truth.camera_at(G, 0.0), float(G.camera.focal)
    view, is_face, is_head = truth.true_view(subject, c2w, CFG.resolution, focal=focal)
    solid = np.ones((8, 8, 8), bool)
    known = truth.TrueHead([view], [is_face], [is_head], solid)
    (made,) = truth.made_views(mesh, [c2w], CFG.resolution, focal=focal)
    errors = truth.errors(known, [made], solid, truth.TruthConfig())
    assert found[found != NOT_COMPARED].mean() == pytest.approx(errors["normal_deg"], abs=0.1)


def test_without_a_surface_pictures_are_white() -> None:
    found = surfaces(None, tiny_generator(), CFG)
    assert [(p.kind, p.yaw) for p in found] == [(SURFACE, 0.0), (SURFACE, 0.9)]
    assert all((p.pixels == 255).all() for p in found)


@pytest.mark.parametrize("are_heads_known", [True, False])
def test_the_sheet_shows_what_there_is(are_heads_known: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """True heads and angles to them where the heads are known; the same files give the same sheet."""
    codes = np.stack([head_codes(seed) for seed in range(2)])
    monkeypatch.setattr(truth, "true_codes", lambda G, seeds, num_codes: codes)
    networks = {START: tiny_generator(), TUNED: tiny_generator(1), CONTROL: tiny_generator(2)}
    num_codes = NUM_CODES if are_heads_known else None
    table = pictures(networks, CFG, tmp_path, num_codes=num_codes)
    kinds = table.groupby("arm", sort=False)["kind"].agg(lambda each: list(each)[: len(each) // 2]).to_dict()
    own = [RENDER, SURFACE, SURFACE, *([ANGLE] if are_heads_known else [])]
    heads = {TRUE_HEAD: [SURFACE, SURFACE]} if are_heads_known else {}
    assert kinds == {START: own, TUNED: own, CONTROL: own} | heads
    for row in table.itertuples():
        with PIL.Image.open(tmp_path / row.file) as image:
            is_render = row.kind == RENDER
            assert image.size == ((SIDE,) * 2 if is_render else (CFG.resolution,) * 2)
            assert image.mode == ("L" if row.kind == ANGLE else "RGB")
    write_table(tmp_path / "pictures.csv", table, columns=COLUMNS, inputs={})
    sheets = [draw_pair(Tables(tmp_path, MEASURE.tables), tmp_path / f"{i}.png", arm=TUNED) for i in range(2)]
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
    control = draw_pair(Tables(tmp_path, MEASURE.tables), tmp_path / "control.png", arm=CONTROL)
    with PIL.Image.open(sheets[0]) as image, PIL.Image.open(control) as other:
        assert image.size == other.size and (image.width > 1500) == are_heads_known


def test_seeds_are_the_first_ones_and_truncation_reaches_the_true_head(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At psi 0 every seed stands for the average head."""
    codes = np.stack([head_codes(seed) for seed in range(2)])
    monkeypatch.setattr(truth, "true_codes", lambda G, seeds, num_codes: codes)
    cfg = PicturesConfig(psi=0.0, num_seeds=2, resolution=24, grid_resolution=8, surface_yaws=[0.0])
    table = pictures({START: tiny_generator()}, cfg, tmp_path, num_codes=NUM_CODES)
    assert list(table["seed"].unique()) == [200000, 200001]
    files = [tmp_path / file for file in table.loc[table["arm"] == TRUE_HEAD, "file"]]
    assert files[0].read_bytes() == files[1].read_bytes()
    mesh = mesh_of(portrait(0 * codes[0]))
    expected = surfaces(mesh, tiny_generator(), cfg)[0].pixels
    with PIL.Image.open(files[0]) as image:
        np.testing.assert_array_equal(np.asarray(image), expected)
