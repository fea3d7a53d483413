"""A web server on this machine, which answers as the tests say."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Web:
    """Its answers by path, and what was asked: (path, the header Range)."""

    address: str
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)


def sends(
    data: bytes,
    kind: str = "application/octet-stream",
    cuts: list[int] | None = None,
    ranges: bool = True,
) -> Answer:
    """Send a file. `cuts`: after how many bytes the connection ends, answer by answer."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        start = 0
        wanted = request.headers.get("Range")
        if wanted and ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                request.send_response(416)
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        if request.command != "HEAD":
            stop = start + cuts.pop(0) if cuts else len(data)
            request.wfile.write(data[start:stop])

    return answer


def fails(code: int) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


@contextlib.contextmanager
def serving(answers: dict[str, Answer] | None = None) -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            web.asked.append((self.path, self.headers.get("Range")))
            without_query = web.answers.get(self.path.partition("?")[0], fails(404))
            web.answers.get(self.path, without_query)(self)

        def do_HEAD(self):
            self.do_GET()

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web = Web(f"http://127.0.0.1:{server.server_address[1]}", dict(answers or {}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
