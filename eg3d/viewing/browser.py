"""The viewer in the browser, on viser: controls, a camera to orbit with, and one thread that renders.

The picture is the background of viser's scene; a mesh is an object in it. Controls are shared by all who look, cameras
are each viewer's own. A request that has been overtaken is dropped; slow networks show a preview first.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import math
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from eg3d.installation import install_hint
from eg3d.representations.mesh import NoSurface, mesh_bytes
from eg3d.viewing import controls as ranges
from eg3d.viewing.gallery import LAYOUTS, MODES, Choice, Gallery, Pose, pose_from

if TYPE_CHECKING:
    import viser

    from eg3d.cameras import CameraConfig

log = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 8080
TOKEN_BYTES = 24  # of chance in a token: more than anybody can try
SLOW_SECONDS = 0.2  # a picture that takes longer gets a preview
WIDEST = 1600  # px of what is sent
BACKDROP = 32  # grey around the pictures


def check_viser() -> None:
    """Raise RuntimeError, saying what to install, if there can be no viewer."""
    if importlib.util.find_spec("viser") is None:
        raise RuntimeError(f"the viewer needs viser, which is not installed: {install_hint('tools')}")


def check_address(host: str) -> None:
    """Raise ValueError if this machine cannot listen on `host`; viser would wait for its server for ever."""
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise ValueError(
            f"host: cannot listen on {host!r} ({error}); give an address of this machine, such as {HOST}"
        ) from None


def address(host: str, port: int, token: str | None) -> str:
    """Where to point a browser: the name of this machine for an address that stands for all of its own."""
    is_any = host in ("", "0.0.0.0", "::")
    name = socket.gethostname() if is_any else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}" + (f"/?token={token}" if token else "")


class Viewer:
    """Serves a gallery from its construction until `close`; `url` says where, with the token if one is asked for.

    Who gets in, and what pages may send: eg3d/viewing/gate.py. A token is asked for where other machines can connect.
    """

    def __init__(
        self,
        gallery: Gallery,
        *,
        host: str = HOST,
        port: int = PORT,
        start: Choice | None = None,
        names: Sequence[str] = (),
    ) -> None:
        check_viser()
        check_address(host)
        from eg3d.viewing.gate import Gate, is_local, open_server

        self.gallery = gallery
        token = None if is_local(host) else secrets.token_urlsafe(TOKEN_BYTES)
        with contextlib.redirect_stdout(io.StringIO()):  # it greets on its own
            self.server = open_server(Gate(host, names=names, token=token), host=host, port=port, label="EG3D")
        self.url = address(host, self.server.get_port(), token)
        start = start or Choice()
        self._start = ranges.clamped(vars(start), start)
        self._wake, self._is_closed = threading.Event(), threading.Event()
        self._shown: dict[int, tuple[Choice, Pose, tuple[int, int]]] = {}
        self._seconds = 0.0  # that the last full picture took
        self._meshes: dict[str, Choice] = {}
        self._build_scene()
        self._controls = self._build_controls()
        self.server.on_client_connect(self._greet)
        self.server.on_client_disconnect(self._forget)
        self._worker = threading.Thread(target=self._work, name="viewer", daemon=True)
        self._worker.start()

    def close(self) -> None:
        """Stop rendering and serving."""
        self._is_closed.set()
        self._wake.set()
        self._worker.join(timeout=60)
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()

    def _build_scene(self) -> None:
        camera, server = self.gallery.camera, self.server
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        server.gui.main_panel.dock_right()  # beside the pictures, not over them
        server.scene.set_up_direction("+y")
        server.scene.add_light_ambient("/light", intensity=0.4)
        server.initial_camera.position = (0.0, 0.0, camera.radius)
        server.initial_camera.look_at = camera.pivot
        server.initial_camera.up = (0.0, 1.0, 0.0)
        server.initial_camera.fov = 2 * math.atan(0.5 / camera.focal)

    def _build_controls(self) -> dict[str, Any]:
        gui, names, start = self.server.gui, self.gallery.names, self._start
        if len(names) > 1:
            gui.add_markdown("From left to right: " + ", ".join(f"**{name}**" for name in names))
        controls: dict[str, Any] = {
            "seed": gui.add_number("Seed", start.seed, min=ranges.SEED[0], max=ranges.SEED[1], step=1),
            "psi": gui.add_slider("Truncation psi", *ranges.PSI, 0.05, start.psi),
            "truncation_cutoff": gui.add_number(
                "Truncation cutoff", start.truncation_cutoff, min=ranges.CUTOFF[0], max=ranges.CUTOFF[1], step=1
            ),
            "mode": gui.add_dropdown("Show", MODES, initial_value=start.mode),
        }
        if len(names) > 1:
            controls["layout"] = gui.add_dropdown("Compare", LAYOUTS, initial_value=start.layout)
        with gui.add_folder("Mesh", expand_by_default=True):
            sides = ranges.grid_sides(start)
            controls["resolution"] = gui.add_dropdown("Grid", sides, initial_value=str(start.resolution))
            controls["level"] = gui.add_number("Level", start.level, min=ranges.LEVEL[0], max=ranges.LEVEL[1], step=0.5)
            controls["is_colored"] = gui.add_checkbox("Colours", start.is_colored)
        for control in controls.values():
            control.on_update(lambda _: self._wake.set())
        gui.add_button("Next seed").on_click(lambda _: self._go_to_seed(self._choice().seed + 1))
        gui.add_button("Random seed").on_click(lambda _: self._go_to_seed(secrets.randbelow(ranges.SEED[1] + 1)))
        gui.add_button("Frontal view").on_click(self._face)
        self._status = gui.add_markdown("")
        return controls

    def _choice(self) -> Choice:
        """What the controls say, brought into their ranges; a control that was outside shows what counts."""
        values = {name: control.value for name, control in self._controls.items()}
        choice = ranges.clamped(values, self._start)
        for name, value in values.items():  # read once: what a page sends from here on counts at the next wake
            wanted = str(choice.resolution) if name == "resolution" else getattr(choice, name)
            if value != wanted:
                self._controls[name].value = wanted
        return choice

    def _go_to_seed(self, seed: int) -> None:
        """Show another seed; after the largest comes the first."""
        self._controls["seed"].value = seed if seed <= ranges.SEED[1] else ranges.SEED[0]

    def _greet(self, client: viser.ClientHandle) -> None:
        client.camera.on_update(lambda _: self._wake.set())
        self._wake.set()

    def _forget(self, client: viser.ClientHandle) -> None:
        self._shown.pop(client.client_id, None)

    def _face(self, event: viser.GuiEvent) -> None:
        """Bring the camera of whoever asked back to the front."""
        if event.client is not None:
            with event.client.atomic():
                event.client.camera.position = np.array([0.0, 0.0, self.gallery.camera.radius])
                event.client.camera.look_at = np.array(self.gallery.camera.pivot)

    def _work(self) -> None:
        while not self._is_closed.is_set():
            self._wake.wait()
            self._wake.clear()
            for client in list(self.server.get_clients().values()):
                try:
                    self._show(client)
                except Exception as error:  # a viewer survives a bad request, and says so
                    log.exception("could not show what was asked for")
                    self._status.content = f"error: {error}"

    def _show(self, client: viser.ClientHandle) -> None:
        choice = self._choice()
        view = client.camera
        pose = pose_from(view.position.tolist(), view.look_at.tolist(), self.gallery.camera)
        canvas = (int(view.image_width), int(view.image_height))
        if self._is_closed.is_set() or self._shown.get(client.client_id) == (choice, pose, canvas):
            return
        if choice.mode == "mesh":
            self._show_meshes(choice)
            client.scene.set_background_image(None)
        elif not self._show_picture(client, choice, pose, canvas):
            return  # overtaken; the next round shows what is wanted by then
        self._shown[client.client_id] = (choice, pose, canvas)

    def _show_picture(self, client: viser.ClientHandle, choice: Choice, pose: Pose, canvas: tuple[int, int]) -> bool:
        """Show the picture unless a newer request comes in while a preview is made; whether it was shown."""
        self._hide_meshes()
        if self._seconds > SLOW_SECONDS:
            client.scene.set_background_image(framed(self.gallery.picture(choice, pose, is_preview=True), canvas))
            if self._wake.is_set():
                return False
        start = time.monotonic()
        picture = self.gallery.picture(choice, pose)
        self._seconds = time.monotonic() - start
        client.scene.set_background_image(framed(picture, canvas))
        side = picture.shape[0]
        self._status.content = f"seed {choice.seed}, psi {choice.psi:g}: {side}x{side} px in {self._seconds:.2f} s"
        return True

    def _show_meshes(self, choice: Choice) -> None:
        """Put the meshes that the layout shows side by side; one that is there already stays."""
        names, said = self.gallery.shown(choice), []
        self._hide_meshes(keep=names)
        for index, name in enumerate(names):
            if self._meshes.get(name) == choice:
                continue
            try:
                mesh = self.gallery.mesh(name, choice)
            except NoSurface as error:
                self.server.scene.remove_by_name(self._node(name))
                said.append(f"{name}: {error}")
            else:
                self.server.scene.add_glb(
                    self._node(name),
                    mesh_bytes(mesh, ".glb"),
                    scale=1 / len(names),
                    position=mesh_place(index, len(names), self.gallery.camera),
                    cast_shadow=False,  # costs more than the mesh where there is no GPU
                    receive_shadow=False,
                )
                said.append(f"{name}: {len(mesh.vertices)} vertices")
            self._meshes[name] = choice
        if said:
            self._status.content = "; ".join(said)

    def _hide_meshes(self, *, keep: Sequence[str] = ()) -> None:
        for name in [name for name in self._meshes if name not in keep]:
            self.server.scene.remove_by_name(self._node(name))
            del self._meshes[name]

    def _node(self, name: str) -> str:
        return f"/mesh_{self.gallery.names.index(name)}"


def mesh_place(index: int, count: int, camera: CameraConfig) -> tuple[float, float, float]:
    """Where a mesh of 1 / count of its size goes, so that `count` of them share the frontal view from left to right."""
    distance = float(np.linalg.norm(np.array([0.0, 0.0, camera.radius]) - np.asarray(camera.pivot)))
    width = distance / camera.focal  # of the view, at the pivot
    x, y, z = (value * (1 - 1 / count) for value in camera.pivot)
    return (x + width / count * (index - (count - 1) / 2), y, z)


def framed(picture: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """A picture uint8 [H, W, 3], as large as fits, in the middle of a grey one shaped as `canvas` (width, height).

    The background of the scene is stretched over the canvas; this keeps pixels square.
    """
    width, height = max(canvas[0], 1), max(canvas[1], 1)
    shrink = min(1.0, WIDEST / max(width, height))
    width, height = max(1, round(width * shrink)), max(1, round(height * shrink))
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    resized = PIL.Image.fromarray(picture).resize(size, PIL.Image.Resampling.BICUBIC)
    frame = PIL.Image.new("RGB", (width, height), (BACKDROP,) * 3)
    frame.paste(resized, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(frame)
