"""Who gets into the viewer, tried by foreign pages and names against a harmless witness; loopback only."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eg3d.checkpoints.store import load_generator
from eg3d.seeds import LARGEST_SEED
from eg3d.viewing import browser, gate
from eg3d.viewing.browser import Viewer, address
from eg3d.viewing.controls import clamped
from eg3d.viewing.gallery import Choice, Gallery

pytestmark = pytest.mark.skipif(importlib.util.find_spec("viser") is None, reason="the viewer needs viser")
HOST, TOKEN = "127.0.0.1", "one-token"
CAMERA = {
    "type": "ViewerCameraMessage", "wxyz": [1.0, 0.0, 0.0, 0.0], "position": [0.0, 0.0, 2.7], "fov": 0.3, "near": 0.01,
    "far": 1000, "image_height": 30, "image_width": 40, "look_at": [0.0, 0.0, 0.2], "up_direction": [0.0, 1.0, 0.0],
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def viewer(toy_networks: Path) -> Iterator[Viewer]:
    made = Viewer(Gallery({"toy": load_generator(toy_networks)}), port=free_port(), start=Choice(resolution=24))
    yield made
    made.close()


@pytest.fixture
def witness(viewer: Viewer) -> list[int]:
    """Clients that viser has let in, whoever they are."""
    seen: list[int] = []
    viewer.server.on_client_connect(lambda client: seen.append(client.client_id))
    return seen


def port_of(viewer: Viewer) -> int:
    return int(viewer.server.get_port())


def ask(port: int, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    """The answer to a page request; keywords are headers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    return connection.getresponse()


def talk(
    port: int, *messages: dict[str, Any], path: str = "/", until: Callable[[], bool] | None = None, **options: Any
):
    """Whether a websocket is let in; if so it sends messages and stays until `until` holds, at most half a minute."""
    import msgspec
    import viser
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus

    async def run() -> bool:
        protocol: Any = f"viser-v{viser.__version__}"
        try:
            socket = await connect(f"ws://{HOST}:{port}{path}", subprotocols=[protocol], max_size=None, **options)
        except InvalidStatus as error:
            if error.response.status_code != 403:
                raise
            return False
        async with socket:
            for message in messages:
                await socket.send(msgspec.msgpack.encode(message))
            deadline = time.monotonic() + 30
            while until is not None and not until() and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
        return True

    return asyncio.run(run())


# ---------------------------------------------------------------------------------------------- origins and names


def foreign_origins(port: int) -> list[str]:
    return [
        "http://another.example", f"http://another.example:{port}", "null", f"http://{HOST}:{port + 1}", f"http://{HOST}",
        f"http://localhost:{port}", f"http://{HOST}:{port}.another.example", f"http://a@{HOST}:{port}", "file://", "",
        f"chrome-extension://{HOST}:{port}",
    ]  # fmt: skip


def test_a_page_of_another_site_reaches_nothing(viewer: Viewer, witness: list[int]) -> None:
    port = port_of(viewer)
    for origin in foreign_origins(port):
        assert not talk(port, CAMERA, origin=origin), origin
        assert ask(port, Origin=origin).status == 403, origin
    time.sleep(0.3)
    assert witness == []
    assert talk(port, CAMERA, origin=f"http://{HOST}:{port}", until=lambda: bool(witness))
    assert len(witness) == 1  # so the witness can see


@pytest.mark.parametrize(
    "host",
    ["another.example", "127.0.0.1.another.example", "127.0.0.2", "[::2]", "local host", "a@127.0.0.1", "", "[::1"],
)
def test_a_foreign_name_is_not_answered(viewer: Viewer, host: str) -> None:
    """As after a change of what a name resolves to: the name is the attacker's, the address is ours."""
    port = port_of(viewer)
    for value in (host, f"{host}:{port}"):
        answer = ask(port, Host=value)
        assert (answer.status, b"<html" in answer.read()) == (403, False)
        answer = ask(port, Host=value, Origin=f"http://{value}", Upgrade="websocket", Connection="Upgrade")
        assert answer.status == 403


def test_two_names_or_none_are_refused(viewer: Viewer) -> None:
    port = port_of(viewer)
    for head in (b"", b"Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n", b"Host: 127.0.0.1\r\nOrigin: a\r\nOrigin: a\r\n"):
        with socket.create_connection((HOST, port), timeout=30) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n" + head + b"\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_its_own_names_are_answered(viewer: Viewer, host: str) -> None:
    port = port_of(viewer)
    answer = ask(port, Host=f"{host}:{port}", Origin=f"http://{host}:{port}")
    assert answer.status == 200 and b"<html" in answer.read()
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert ask(port, Host=f"{host}:9000").status == 200  # through a tunnel of the owner's own


def test_more_names_are_taken_when_asked_for(toy_networks: Path) -> None:
    networks = Gallery({"toy": load_generator(toy_networks)})
    made = Viewer(networks, port=free_port(), names=["Faces.example"])
    try:
        assert ask(port_of(made), Host="faces.example", Origin="https://faces.example").status == 200
        assert ask(port_of(made), Host="faces.example", Origin="https://other.example").status == 403
    finally:
        made.close()


@pytest.mark.parametrize("query", ["colour=blue", "page=2", "token=a&colour=blue"])
def test_any_query_but_the_token_is_refused(viewer: Viewer, query: str) -> None:
    assert ask(port_of(viewer), f"/?{query}").status == 403
    assert ask(port_of(viewer), "/").status == 200


# ---------------------------------------------------------------------------------------------- token


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch, toy_networks: Path) -> Iterator[Viewer]:
    """A viewer that takes loopback for an address that others can reach."""
    monkeypatch.setattr(gate, "is_local", lambda host: False)
    monkeypatch.setattr(browser.secrets, "token_urlsafe", lambda count: TOKEN)
    made = Viewer(Gallery({"toy": load_generator(toy_networks)}), port=free_port())
    yield made
    made.close()


def test_beyond_this_machine_nothing_goes_without_the_token(guarded: Viewer) -> None:
    port = port_of(guarded)
    assert guarded.url == f"http://{HOST}:{port}/?token={TOKEN}"
    own = {"origin": f"http://{HOST}:{port}"}
    for path in ("/", "/?token=", "/?token=other", f"/?token={TOKEN}x", "/?token=%C3%A9", f"/?Token={TOKEN}"):
        assert ask(port, path).status == 403
        assert not talk(port, path=path, **own)
    for cookie in (
        "",
        f"viewer_token_{port}=other",
        f"viewer_token={TOKEN}",
        "=;; a,b",
        f"viewer_token_{port + 1}={TOKEN}",
    ):
        assert not talk(port, additional_headers={"Cookie": cookie}, **own)
        assert ask(port, Cookie=cookie).status == 403


def test_the_token_opens_the_page_and_stays_out_of_its_address(guarded: Viewer) -> None:
    port = port_of(guarded)
    answer = ask(port, f"/?token={TOKEN}")
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite" in cookie
    kept = cookie.partition(";")[0]
    assert ask(port, Cookie=f"theme=dark; {kept}").status == 200
    assert talk(port, origin=f"http://{HOST}:{port}", additional_headers={"Cookie": kept})
    assert not talk(port, origin="http://another.example", additional_headers={"Cookie": kept})
    assert talk(port, path=f"/?token={TOKEN}")  # a tool without cookies


def test_tokens_are_long_and_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr(gate.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    assert gate._is_same("a", "b") is False and compared == [(b"a", b"b")]
    assert len(browser.secrets.token_urlsafe(browser.TOKEN_BYTES)) >= 32


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("", False), ("192.0.2.7", False)],
)  # fmt: skip
def test_what_is_local(host: str, expected: bool) -> None:
    assert gate.is_local(host) is expected


def test_addresses() -> None:
    assert address("127.0.0.1", 8080, None) == "http://127.0.0.1:8080"
    assert address("::1", 8080, None) == "http://[::1]:8080"
    assert address("0.0.0.0", 8080, "t") == f"http://{socket.gethostname()}:8080/?token=t"


def test_a_viser_that_cannot_be_guarded_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    import viser

    stopped = []

    class OtherServer:
        def __init__(self, **options: Any) -> None: ...

        def stop(self) -> None:
            stopped.append(True)

    monkeypatch.setattr(viser, "ViserServer", OtherServer)
    with pytest.raises(RuntimeError, match="cannot guard"):
        gate.open_server(gate.Gate(HOST), host=HOST, port=free_port(), label="x")
    assert stopped == [True]


def test_servers_of_others_in_the_process_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import websockets.asyncio.server as listening

    def theirs(*arguments: Any, **options: Any) -> tuple[Any, ...]:
        return arguments, options

    monkeypatch.setattr(listening, "serve", theirs)
    with gate._gated(gate.Gate(HOST)) as passed:
        made = listening.serve(test_addresses, HOST, 0, max_size=7)
    assert passed == [] and made == ((test_addresses, HOST, 0), {"max_size": 7})
    assert listening.serve is theirs


# ---------------------------------------------------------------------------------------------- what a page may send


def test_nobody_opens_a_tunnel(viewer: Viewer, witness: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    import viser._viser as inside

    opened = []
    monkeypatch.setattr(inside, "ViserTunnel", lambda *a, **k: opened.append(a) or SimpleNamespace())
    port = port_of(viewer)
    for count, kind in enumerate(("ShareUrlRequest", "ShareUrlDisconnect"), start=1):
        assert talk(port, {"type": kind}, CAMERA, until=lambda count=count: len(witness) == count)
    assert viewer.server.request_share_url() is None
    assert opened == [] and len(witness) == 2


def test_only_cameras_and_values_of_controls_pass() -> None:
    import msgspec

    def passes(**message: Any) -> bool:
        return gate.is_wanted(msgspec.msgpack.encode(message))

    update = {"type": "GuiUpdateMessage", "uuid": "u"}
    for value in (1, 0.5, True, "mesh", -1e11):
        assert passes(**update, updates={"value": value})
    assert passes(**CAMERA)
    for value in (float("nan"), float("inf"), 1e300, 10**15, None, [1], {"a": 1}, b"x", "x" * 101):
        assert not passes(**update, updates={"value": value})
    for other in ({"removed": True}, {"value": 1, "update_cb": []}, {}, {"sync_cb": 1}):
        assert not passes(**update, updates=other)
    assert (
        not passes(**update, updates=[1])
        and not passes(**update)
        and not passes(type="GuiUpdateMessage", uuid=1, updates={})
    )
    for name, value in (
        ("position", [0, float("nan"), 0]),
        ("fov", None),
        ("look_at", [[0]]),
        ("wxyz", [0] * 5),
        ("fov", "1"),
    ):
        assert not passes(**{**CAMERA, name: value})
    for kind in ("ShareUrlRequest", "FileTransferStartUpload", "FileTransferPart", "CommandTriggerMessage", "Nonsense"):
        assert not passes(type=kind)
    for raw in (b"", b"\xc1", b"\x93\x01", "text", b"\x81" * 10_000):
        assert not gate.is_wanted(raw)


def test_values_from_outside_their_range_do_not_count(viewer: Viewer, witness: list[int]) -> None:
    port, controls = port_of(viewer), viewer._controls
    sent = {"seed": -5, "psi": 900.0, "truncation_cutoff": 10**9, "mode": "film", "resolution": "100000", "level": -1e9}
    uuids = {name: control._impl.uuid for name, control in controls.items()}
    updates = [{"type": "GuiUpdateMessage", "uuid": uuids[name], "updates": {"value": v}} for name, v in sent.items()]
    expected = {"seed": 0, "psi": 1.5, "truncation_cutoff": 64, "mode": "image", "resolution": "24", "level": -999.0}
    arrived: dict[str, Any] = {}
    for name, control in controls.items():
        control.on_update(lambda event, name=name: arrived.setdefault(name, event.target.value))

    def is_mended() -> bool:
        return arrived.keys() >= sent.keys() and {name: controls[name].value for name in sent} == expected

    assert talk(port, CAMERA, *updates, until=is_mended)
    assert is_mended()
    assert viewer._choice() == Choice(seed=0, psi=1.5, truncation_cutoff=64, mode="image", resolution=24, level=-999.0)


@pytest.mark.parametrize("junk", [None, "x", float("nan"), [1], {}, b"1", object()])
def test_values_that_are_none_count_as_at_the_start(junk: Any) -> None:
    start = Choice(seed=3, psi=0.5, mode="mesh", resolution=24)
    assert clamped(dict.fromkeys(vars(start), junk), start) == start
    assert clamped({}, start) == start


def test_numbers_are_brought_into_their_ranges() -> None:
    start = Choice()
    assert clamped({"seed": float("inf")}, start).seed == LARGEST_SEED
    assert clamped({"seed": 10**30, "psi": -1, "level": 10**30}, start) == Choice(
        seed=LARGEST_SEED, psi=0.0, level=1000.0
    )
    assert clamped({"is_colored": False, "mode": "mesh", "resolution": "256"}, start) == Choice(
        mode="mesh", resolution=256, is_colored=False
    )
    assert clamped({}, Choice(psi=float("nan"), seed=-1)) == Choice(psi=0.0, seed=0)
