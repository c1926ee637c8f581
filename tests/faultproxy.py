"""An HTTP/1.1 proxy on loopback that counts requests, adds latency and makes mistakes on request.

It passes bodies on as they come and never holds up throughput. Each connection of a client has one connection to the
server, kept alive as long as both sides want, and closed when either goes.

    with FaultProxy(server_url, latency=0.02) as proxy:
        use(proxy.url)
        assert proxy.count("GET", "pack.tar.zst") == 1
        proxy.fail(answer(503), times=2, method="PUT")
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from urllib.parse import unquote, urlsplit

__all__ = [
    "Exchange",
    "Fault",
    "FaultProxy",
    "Request",
    "answer",
    "at_random",
    "drop",
    "flip",
    "hang",
    "late",
    "trickle",
]

_CHUNK = 64 * 1024
#: Rounds of the event loop from an accepted socket to the task that serves, and so closes, it (asyncio needs four).
_STEPS_OF_ACCEPTING = 10


@dataclasses.dataclass(frozen=True)
class Request:
    """The head of a request."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def path(self) -> str:
        """Path and query, decoded."""
        return unquote(self.target)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One request, of which the head is read, and both connections: what a fault can work with."""

    request: Request
    head: bytes
    reader: asyncio.StreamReader
    client: asyncio.StreamWriter
    server_reader: asyncio.StreamReader
    server_writer: asyncio.StreamWriter

    async def take_body(self) -> None:
        """Read the request to its end and forget it."""
        if self.request.headers.get("expect", "").lower() == "100-continue":
            self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        async for _chunk in _body(self.reader, self.request.headers, until_end=False):
            pass

    async def ask_server(self) -> tuple[bytes, AsyncIterator[bytes]]:
        """Pass the request on; return the head of the answer, and its body as it comes."""
        self.server_writer.write(self.head)
        upload = asyncio.ensure_future(self._upload())
        try:
            head = await self.server_reader.readuntil(b"\r\n\r\n")
            while _status(head).startswith("1"):
                self.client.write(head)
                head = await self.server_reader.readuntil(b"\r\n\r\n")
            await upload
        finally:
            upload.cancel()
        empty = self.request.method == "HEAD" or _status(head) in ("204", "304")
        return head, _body(self.server_reader, {} if empty else _parse(head)[1], until_end=not empty)

    async def _upload(self) -> None:
        async for chunk in _body(self.reader, self.request.headers, until_end=False):
            self.server_writer.write(chunk)
            await self.server_writer.drain()


#: Does something instead of passing the answer on. Returns whether the connection can be used again.
Fault = Callable[[Exchange], Awaitable[bool]]


def answer(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Answer at once and ask nobody. Underscores in header names stand for dashes."""

    async def fault(exchange: Exchange) -> bool:
        await exchange.take_body()
        lines = [f"HTTP/1.1 {status} {'Injected'}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        exchange.client.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        if exchange.request.method != "HEAD":
            exchange.client.write(body)
        await exchange.client.drain()
        return True

    return fault


def hang() -> Fault:
    """Read the request and never answer."""

    async def fault(exchange: Exchange) -> bool:
        await exchange.take_body()
        await asyncio.Event().wait()
        return False

    return fault


def drop(after: int = 0) -> Fault:
    """Close the connection after so many bytes of the answer's body; 0: before the answer that the server gave."""

    async def fault(exchange: Exchange) -> bool:
        head, body = await exchange.ask_server()
        left = after
        if left:
            exchange.client.write(head)
        async for chunk in body:
            if left:
                exchange.client.write(chunk[:left])
                left -= len(chunk[:left])
        await exchange.client.drain()
        return False

    return fault


def trickle(pause: float) -> Fault:
    """Send the answer's body byte by byte."""

    async def fault(exchange: Exchange) -> bool:
        head, body = await exchange.ask_server()
        exchange.client.write(head)
        async for chunk in body:
            for number in chunk:
                exchange.client.write(bytes([number]))
                await exchange.client.drain()
                await asyncio.sleep(pause)
        return True

    return fault


def flip(bit: int) -> Fault:
    """Change one bit of the answer's body, at a place drawn from `bit`; framing and status stay as they are."""

    async def fault(exchange: Exchange) -> bool:
        head, body = await exchange.ask_server()
        chunks = [bytearray(chunk) async for chunk in body]
        is_framed = "chunked" in _parse(head)[1].get("transfer-encoding", "").lower()
        content = [chunk for chunk in chunks if chunk and not is_framed]
        if content and _status(head) == "200":
            chunk = content[bit % len(content)]
            chunk[(bit // 8) % len(chunk)] ^= 1 << bit % 8
        exchange.client.write(head)
        for each in chunks:
            exchange.client.write(each)
        await exchange.client.drain()
        return True

    return fault


def late(seconds: float) -> Fault:
    """Pass everything on, later."""

    async def fault(exchange: Exchange) -> bool:
        await asyncio.sleep(seconds)
        return await _pass_on(exchange)

    return fault


#: Draws a fault for a request, or None for none.
Draw = Callable[[Request], "Fault | None"]


def at_random(share: float, faults: Sequence[Callable[[random.Random], Fault]], seed: int = 0) -> Draw:
    """Give this share of the requests one of the faults, all equally often."""
    rng = random.Random(seed)
    return lambda _: rng.choice(faults)(rng) if rng.random() < share else None


@dataclasses.dataclass
class _Armed:
    fault: Fault
    left: int
    method: str | None
    path: str
    header: str | None

    def matches(self, request: Request) -> bool:
        return (
            self.left > 0
            and self.method in (None, request.method)
            and self.path in request.path
            and (self.header is None or self.header.lower() in request.headers)
        )


class FaultProxy:
    """One server, seen through a proxy on a port of its own.

    Args:
        server: the URL of the server, `http://127.0.0.1:port`.
        latency: seconds added to each round trip: once for each request, and once for each new connection.
    """

    def __init__(self, server: str, *, latency: float = 0.0) -> None:
        parts = urlsplit(server)
        assert parts.hostname is not None
        self._server = (parts.hostname, parts.port or 80)
        self.latency = latency
        #: Every request seen, in order.
        self.requests: list[Request] = []
        #: Connections accepted so far.
        self.connections = 0
        #: Requests in the works now, and the most there have been.
        self.at_once = 0
        self.most_at_once = 0
        self._armed: list[_Armed] = []
        #: Asked for a fault where none of those that `fail` was told of fits.
        self.draw: Draw = lambda _: None
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faultproxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> FaultProxy:  # noqa: PYI034 - typing.Self came with Python 3.11
        self._thread.start()
        self._listener = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20, backlog=256), self._loop
        ).result(10)
        self.url = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def fail(
        self, fault: Fault, *, times: int = 1, method: str | None = None, path: str = "", header: str | None = None
    ) -> None:
        """Apply the fault to the next so many requests of this method, whose path and query hold `path`."""
        with self._lock:
            self._armed.append(_Armed(fault, times, method, path, header))

    def heal(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._armed.clear()
            self.draw = lambda _: None

    def clear(self) -> None:
        """Begin to count from zero."""
        with self._lock:
            self.requests.clear()

    def count(self, method: str | None = None, path: str = "") -> int:
        """Return the number of requests of this method, whose path and query hold `path`."""
        with self._lock:
            return sum(method in (None, request.method) and path in request.path for request in self.requests)

    def seen(self) -> list[str]:
        """Return method and path of every request, for messages and for comparing whole sequences."""
        with self._lock:
            return [str(request) for request in self.requests]

    async def _stop(self) -> None:
        # Accept nothing more, and let what is accepted reach its task: a connection that finds the server closed on its
        # way there is dropped unclosed (asyncio/base_events.py, Server._attach, 3.11).
        for listening in self._listener.sockets:
            self._loop.remove_reader(listening.fileno())
        for _ in range(_STEPS_OF_ACCEPTING):
            await asyncio.sleep(0)
        self._listener.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._listener.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        upstream: list[asyncio.StreamWriter] = []
        try:
            await asyncio.sleep(self.latency)
            await self._converse(reader, writer, upstream)
        except (asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
            # The test is over, or one side has gone. Not raised: asyncio would report it as an error of a callback.
            pass
        finally:
            for side in (writer, *upstream):
                side.close()
            for side in (writer, *upstream):
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await side.wait_closed()
            self._tasks.discard(task)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upstream: list[asyncio.StreamWriter]
    ) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._server, limit=1 << 20)
        upstream.append(server_writer)
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            first, headers = _parse(head)
            method, target, _version = first.split(" ", 2)
            exchange = Exchange(Request(method, target, headers), head, reader, writer, server_reader, server_writer)
            with self._lock:
                self.requests.append(exchange.request)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                armed = next((armed for armed in self._armed if armed.matches(exchange.request)), None)
                if armed is not None:
                    armed.left -= 1
                fault = armed.fault if armed is not None else self.draw(exchange.request) or _pass_on
            try:
                await asyncio.sleep(self.latency)
                if not await fault(exchange):
                    return
            finally:
                with self._lock:
                    self.at_once -= 1


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return first, headers


def _status(head: bytes) -> str:
    return _parse(head)[0].split(" ")[1]


async def _pass_on(exchange: Exchange) -> bool:
    head, body = await exchange.ask_server()
    exchange.client.write(head)
    async for chunk in body:
        exchange.client.write(chunk)
        await exchange.client.drain()
    await exchange.client.drain()
    return "close" not in (exchange.request.headers.get("connection"), _parse(head)[1].get("connection"))


async def _body(reader: asyncio.StreamReader, headers: dict[str, str], *, until_end: bool) -> AsyncIterator[bytes]:
    """Yield the body as it stands on the wire, framing included."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        size = -1
        while size != 0:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line
            if size:
                yield await reader.readexactly(size + 2)
        line = b""
        while line != b"\r\n":
            line = await reader.readuntil(b"\r\n")
            yield line
    elif "content-length" in headers:
        left = int(headers["content-length"])
        while left:
            chunk = await reader.read(min(left, _CHUNK))
            if not chunk:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(chunk)
            yield chunk
    elif until_end and headers:
        while chunk := await reader.read(_CHUNK):
            yield chunk
