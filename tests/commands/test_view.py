"""python -m eg3d.view as a user runs it, up to a real browser."""

from __future__ import annotations

import importlib.util
import io
import shutil
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from command_line import Run
from tiny import tiny_generator_config

from eg3d import view
from eg3d.checkpoints.store import load_generator
from eg3d.installation import install_hint
from eg3d.seeds import LARGEST_SEED
from eg3d.viewing.browser import Viewer
from eg3d.viewing.gallery import Choice, Gallery

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_viser = pytest.mark.skipif(importlib.util.find_spec("viser") is None, reason="the viewer needs viser")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_help(run: Run) -> None:
    result = run(view, "--help")
    assert (result.code, result.err) == (0, "")
    assert "--network" in result.out and "[default: 127.0.0.1]" in result.out


@needs_viser
def test_a_page_is_served_on_this_machine_only(run: Run, toy_networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import viser

    seen: dict[str, Any] = {}

    def look_and_leave(server: viser.ViserServer) -> None:
        seen["host"] = server.get_host()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.get_port()}", timeout=30) as page:
            seen["status"], seen["page"] = page.status, page.read()
        raise KeyboardInterrupt

    monkeypatch.setattr(viser.ViserServer, "sleep_forever", look_and_leave)
    port = free_port()
    result = run(view, "--network", str(toy_networks), "--network", str(toy_networks), "--port", str(port))
    assert (result.code, result.out) == (130, f"viewer: http://127.0.0.1:{port}\n")
    assert result.err.strip() == "stopped by the keyboard"
    assert (seen["host"], seen["status"]) == ("127.0.0.1", 200)
    assert b"<html" in seen["page"].lower()


BAD = {
    "network": (["--network", "nowhere.pkl"], 1, "nowhere.pkl"),
    "three networks": (["--network", "a", "--network", "b", "--network", "c"], 2, "at most two"),
    "host": (["--network", "twin", "--host", "203.0.113.7"], 1, "host: cannot listen on '203.0.113.7'"),
    "mode": (["--network", "twin", "--mode", "video"], 2, "'video' is not one of 'image'"),
}


@needs_viser
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_call_is_one_line(run: Run, tmp_path: Path, kind: str) -> None:
    arguments, code, text = BAD[kind]
    result = run(view, *arguments)
    assert text in result.the_error()
    assert (result.code, result.out) == (code, "")
    assert list(tmp_path.iterdir()) == []


def test_without_viser_one_line_says_what_to_install(
    run: Run, toy_networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "viser" else find(name, *a))
    result = run(view, "--network", str(toy_networks))
    assert result.code == 1
    assert install_hint("tools") in result.the_error()


@pytest.fixture
def viewer(toy_networks: Path) -> Iterator[Viewer]:
    networks = {name: load_generator(toy_networks, net=net) for name, net in (("left", "G_ema"), ("right", "G"))}
    assert networks["left"].cfg == tiny_generator_config()
    made = Viewer(Gallery(networks), port=free_port(), start=Choice(psi=1.0, level=0.0, resolution=24))
    yield made
    made.close()


class FakeScene:
    """Remembers the backgrounds that it is given."""

    def __init__(self) -> None:
        self.backgrounds: list[np.ndarray | None] = []

    def set_background_image(self, image: np.ndarray | None) -> None:
        self.backgrounds.append(image)


@needs_viser
def test_what_is_sent_follows_camera_and_controls(viewer: Viewer) -> None:
    camera = SimpleNamespace(
        position=np.array([0, 0, 2.7]), look_at=np.array([0, 0, 0.2]), image_width=90, image_height=30
    )
    client = SimpleNamespace(client_id=1, camera=camera, scene=FakeScene())
    sent = client.scene.backgrounds
    viewer._show(client)
    viewer._show(client)  # nothing new: nothing is sent
    assert len(sent) == 1 and sent[0].shape == (30, 90, 3)
    camera.position = np.array([2.0, 0.5, 2.0])
    viewer._show(client)
    assert len(sent) == 2 and not np.array_equal(sent[0], sent[1])
    viewer._controls["seed"].value = 12
    viewer._show(client)
    assert len(sent) == 3 and not np.array_equal(sent[1], sent[2])
    viewer._controls["mode"].value = "mesh"
    viewer._show(client)
    assert sent[3] is None and "left: " in viewer._status.content
    viewer._controls["layout"].value = "right"
    viewer._show(client)
    assert viewer._status.content.startswith("right: ") and list(viewer._meshes) == ["right"]
    viewer._controls["layout"].value = "side by side"
    viewer._controls["level"].value = 1e6
    viewer._show(client)
    assert "left: no surface" in viewer._status.content


@needs_viser
def test_buttons_go_to_other_seeds(viewer: Viewer) -> None:
    viewer._go_to_seed(LARGEST_SEED)
    assert viewer._choice().seed == LARGEST_SEED
    viewer._go_to_seed(LARGEST_SEED + 1)
    assert viewer._choice().seed == 0


@needs_viser
def test_without_a_network_the_twin_is_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import viser

    def leave(server: viser.ViserServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(viser.ViserServer, "sleep_forever", leave)
    port = free_port()
    assert run(view, "--port", str(port)).out == f"viewer: http://127.0.0.1:{port}\n"


@pytest.mark.slow
@needs_viser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_in_a_real_browser_controls_and_mouse_change_the_picture(viewer: Viewer) -> None:
    """Open, type another seed, drag the camera, look at depth and mesh; no error on the console."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    complaints: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"],
        )
        page = browser.new_page(viewport={"width": 800, "height": 450})
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"not found: {request.url}"))
        page.set_default_timeout(120_000)  # WebGL without a GPU on a busy machine
        page.goto(viewer.url)
        page.get_by_text("px in").wait_for()  # the status line: the first picture is there

        def scene() -> np.ndarray:
            """The middle of the page left of the controls, clear of notices."""
            shot = page.screenshot(clip={"x": 20, "y": 200, "width": 400, "height": 230}, timeout=120_000)
            return np.asarray(PIL.Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)

        def change(action: Callable[[], None], before: np.ndarray) -> np.ndarray:
            """Act, wait until the scene differs, and give the new one once it stands still."""
            action()
            last, deadline = before, time.monotonic() + 120
            while time.monotonic() < deadline:
                time.sleep(0.7)
                now = scene()
                if np.abs(now - before).mean() > 0.2 and np.array_equal(now, last):
                    return now
                last = now
            raise AssertionError("the picture did not change")

        time.sleep(2)
        first = scene()
        assert np.abs(first[:, :200] - first[:, 200:]).mean() < 40 and first.std() > 1  # two pictures, not a blank
        seed = page.get_by_label("Seed").first

        def type_seed(text: str) -> None:
            seed.fill(text)
            seed.press("Enter")

        other = change(lambda: type_seed("5"), first)

        def drag() -> None:
            page.mouse.move(200, 300)
            page.mouse.down()
            page.mouse.move(300, 300, steps=6)
            page.mouse.up()

        turned = change(drag, other)

        def show(old: str, new: str) -> None:
            page.locator(f'input[value="{old}"]').first.click()
            page.get_by_role("option", name=new, exact=True).click()

        depth = change(lambda: show("image", "image_depth"), turned)
        assert np.ptp(depth, axis=-1).max() <= 12  # grey
        change(lambda: show("image_depth", "mesh"), depth)
        page.get_by_text("left: ").last.wait_for()
        browser.close()
    assert complaints == []
