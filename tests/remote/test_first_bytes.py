"""A store that sends more than was asked for: what that costs a reader."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

import pytest

from tests.test_hostile_bucket import MIB, run_child

SIZE = 200 * MIB


class Generous(http.server.BaseHTTPRequestHandler):
    """Answers whatever it is asked for with 200 MiB, all of the object or, as it says, the part that was asked for."""

    protocol_version = "HTTP/1.1"
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(SIZE))
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(SIZE // MIB):
                self.wfile.write(bytes(MIB))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(params=[200, 206])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Handler", (Generous,), {"status": request.param})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("scheme", "options"), [("s3", {"key": "k", "secret": "s"}), ("gs", {"token": "anon"})], ids=["s3fs", "gcsfs"]
)
def test_a_store_that_ignores_ranges_does_not_decide_what_a_read_costs(
    scheme: str, options: dict[str, str], url: str
) -> None:
    """An object that is larger than it may be is not read, again and again, whatever the store sends."""
    options = {**options, "endpoint_url": url}
    script = f"""
        from tritonsync.errors import UnfitObjectError
        from tritonsync.remote.bucket import Bucket
        bucket = Bucket("{scheme}://bucket/p", storage_options={options!r}, engine="s3fs")
        for limit in (0, 4096, {3 * MIB}):
            try:
                bucket.get("object", limit=limit)
            except UnfitObjectError:
                print("too large")
        """
    printed, peak = run_child(script)
    assert printed.splitlines() == ["too large"] * 3
    assert peak < 150 * MIB
