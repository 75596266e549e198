"""Who may use the viewer: its own pages, under its own names, with a token beyond this machine. Nobody else gets in.

A browser lets every page that it shows send requests to this machine. What a page cannot do is lie about itself: its
requests carry its origin, and the name under which it asked. So the name must be one of the viewer's (a foreign name
that resolves to this machine is refused), and an origin, where there is one, must be that same name. An address
carries the token and nothing else: any other query is refused.

Of what a page sends, only the camera and the values of controls reach viser; the rest (public sharing, uploads, other
properties of a control) is dropped. viser offers no hook for any of this, so the gate stands where viser opens its
port, and the viewer does not start if it cannot stand there.
"""

from __future__ import annotations

import contextlib
import functools
import hmac
import ipaddress
import math
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

    Check = Callable[[ServerConnection, Request], Response | None]

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MESSAGE_BYTES = 1 << 16  # of one message of a page; a camera takes 300
_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[A-Za-z0-9._-]{1,253}))(?::[0-9]{1,5})?")
_PAGE_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_opening = threading.Lock()


class Gate:
    """Decides about every request, of pages and of websockets, before anything else sees it."""

    def __init__(self, host: str, *, names: Iterable[str] = (), token: str | None = None) -> None:
        """host: the address that is listened on; names: more names that browsers may use; token: None asks for none."""
        self.token = token
        self.names = LOCAL_NAMES | {plain_name(name) for name in (host, *names)}
        if not is_local(host):
            self.names |= {plain_name(socket.gethostname()), plain_name(socket.gethostname()) + ".local"}

    def refusal(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer to a request that is not let through, or None for one that is."""
        hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
        name = _name_of(hosts[0]) if len(hosts) == 1 else None
        if name is None or not self._is_own(name, connection):
            return connection.respond(
                HTTPStatus.FORBIDDEN,
                "The viewer does not answer to this name. Open the address that it printed, or start it with "
                "--allow-host NAME.\n",
            )
        if len(origins) > 1 or any(_authority_of(origin) != hosts[0].lower() for origin in origins):
            return connection.respond(HTTPStatus.FORBIDDEN, "The viewer does not answer pages of other sites.\n")
        query = parse_qs(urlsplit(request.path).query, keep_blank_values=True)
        if query.keys() - {"token"}:
            return connection.respond(HTTPStatus.FORBIDDEN, "The viewer takes no settings from its address.\n")
        return self._token_refusal(connection, request, query.get("token", []))

    def _is_own(self, name: str, connection: ServerConnection) -> bool:
        return name in self.names or name == plain_name(str(connection.local_address[0]))

    def _token_refusal(self, connection: ServerConnection, request: Request, given: list[str]) -> Response | None:
        """None with a good token; a page that brings it in its address is sent on without, and keeps it as a cookie."""
        if self.token is None:
            return None
        cookie = f"viewer_token_{connection.local_address[1]}"
        if not any(_is_same(value, self.token) for value in (*given, *_cookies(request, cookie))):
            return connection.respond(
                HTTPStatus.FORBIDDEN, "The viewer asks for its token: open the whole address that it printed.\n"
            )
        if not given or _is_websocket(request):
            return None
        response = connection.respond(HTTPStatus.SEE_OTHER, "")
        response.headers["Location"] = "/"
        response.headers["Set-Cookie"] = f"{cookie}={self.token}; Path=/; HttpOnly; SameSite=Lax"
        return response

    def before(self, answer: Check | None) -> Check:
        """A process_request of websockets that asks the gate first, then `answer`."""

        def check(connection: ServerConnection, request: Request) -> Response | None:
            refused = self.refusal(connection, request)
            response = refused or (answer(connection, request) if answer is not None else None)
            if response is not None:
                for name, value in _PAGE_HEADERS.items():
                    response.headers[name] = value
            return response

        return check


# ---------------------------------------------------------------------------------------------- names


def is_local(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


def plain_name(name: str) -> str:
    """A name or address in one spelling: lower case, IPv6 without brackets and zone, IPv4 as itself."""
    name = name.strip("[]").partition("%")[0].lower()
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(name)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return str(mapped or address)
    return name


def _name_of(authority: str) -> str | None:
    """The name in a Host header; None if it is malformed."""
    found = _AUTHORITY.fullmatch(authority)
    return plain_name(found["v6"] or found["name"]) if found else None


def _authority_of(origin: str) -> str | None:
    """The host and port of an Origin header; None for "null" and other schemes."""
    found = re.fullmatch(r"https?://([^/?#@\s]+)", origin.lower())
    return found[1] if found else None


def _is_same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def _cookies(request: Request, name: str) -> list[str]:
    """Values of a cookie; several headers, or none, are fine."""
    values = []
    for header in request.headers.get_all("Cookie"):
        with contextlib.suppress(CookieError):
            values += [morsel.value for key, morsel in SimpleCookie(header).items() if key == name]
    return values


def _is_websocket(request: Request) -> bool:
    return any(value.lower() == "websocket" for value in request.headers.get_all("Upgrade"))


# ---------------------------------------------------------------------------------------------- messages


def is_wanted(raw: bytes | str) -> bool:
    """Whether a message of a page is a camera, or the new value of a control, and all its numbers are numbers."""
    import msgspec

    if not isinstance(raw, bytes):
        return False
    try:
        message = msgspec.msgpack.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    if not isinstance(message, dict):
        return False
    kind = message.pop("type", None)
    if kind == "ViewerCameraMessage":
        return all(map(_is_numeric, message.values()))
    if kind != "GuiUpdateMessage" or message.keys() != {"uuid", "updates"}:
        return False
    updates = message["updates"]
    is_value = isinstance(updates, dict) and updates.keys() == {"value"} and _is_value(updates["value"])
    return is_value and isinstance(message["uuid"], str)


def _is_numeric(value: Any) -> bool:
    """A finite number of usual size, or up to four of them."""
    if isinstance(value, list):
        return len(value) <= 4 and not any(isinstance(item, list) for item in value) and all(map(_is_numeric, value))
    return isinstance(value, (int, float)) and math.isfinite(value) and abs(value) < 1e12


def _is_value(value: Any) -> bool:
    return len(value) <= 100 if isinstance(value, str) else not isinstance(value, list) and _is_numeric(value)


@functools.cache
def _owners_connection() -> type[ServerConnection]:
    """A connection that hands on only what `is_wanted`."""
    from websockets.asyncio.server import ServerConnection

    class OwnersConnection(ServerConnection):
        async def recv(self, *args: Any, **kwargs: Any) -> Any:
            while True:
                message = await super().recv(*args, **kwargs)
                if is_wanted(message):
                    return message

    return OwnersConnection


# ---------------------------------------------------------------------------------------------- listening


def open_server(gate: Gate, *, host: str, port: int, label: str) -> Any:
    """A ViserServer (viser 1.1 or later) behind the gate, without public sharing, on `port` or the next free one.

    Raises RuntimeError where viser opens its port in a way that the gate does not stand in.
    """
    import viser

    class OwnersServer(viser.ViserServer):
        def request_share_url(self, verbose: bool = True) -> None:
            """No tunnel to a public address, whoever asks: the one door is the gate."""

    with _gated(gate) as passed:
        server = OwnersServer(host=host, port=port, label=label, verbose=False)
    if not passed:
        server.stop()
        raise RuntimeError(
            f"viser {viser.__version__} opens its port in a way that the viewer cannot guard; install viser 1.1"
        )
    return server


@contextlib.contextmanager
def _gated(gate: Gate) -> Iterator[list[str]]:
    """While this is open, servers of viser that websockets starts stand behind the gate; yields a list of them."""
    import websockets.asyncio.server as listening

    original, passed = listening.serve, []

    def serve(handler: Any, *args: Any, **options: Any) -> Any:
        module = str(getattr(handler, "__module__", ""))
        if module.partition(".")[0] != "viser":
            return original(handler, *args, **options)  # of somebody else in this process
        passed.append(module)
        options["process_request"] = gate.before(options.get("process_request"))
        options |= {"create_connection": _owners_connection(), "max_size": MESSAGE_BYTES}
        return original(handler, *args, **options)

    with _opening:
        listening.serve = serve  # type: ignore[assignment,misc]
        try:
            yield passed
        finally:
            listening.serve = original  # type: ignore[misc]
