"""A mock of an object store: the few answers of S3 that a reader asks for, from a folder, each one late if wanted."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "archive"


class Store:
    """Objects of a bucket: the files below a folder; `asked` counts what was asked, by method."""

    def __init__(self, folder: Path, delay_s: float) -> None:
        self.folder, self.delay_s = folder, delay_s
        self.asked: Counter[str] = Counter()
        self.forbidden: set[str] = set()
        self.url = ""

    def objects(self, prefix: str) -> list[tuple[str, Path]]:
        files = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        named = ((str(path.relative_to(self.folder)), path) for path in files)
        return [(key, path) for key, path in named if key.startswith(prefix)]


class Handler(BaseHTTPRequestHandler):
    store: Store
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.store.asked[self.command] += 1
        time.sleep(self.store.delay_s)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        key = unquote(address.path).lstrip("/").removeprefix(BUCKET).lstrip("/")
        if not key:
            return self.listing(parse_qs(address.query, keep_blank_values=True)) if address.query else self.answer(200)
        path = self.store.folder / key
        if key in self.store.forbidden:
            return self.answer(403)
        if not path.is_file():
            return self.answer(404)
        about = path.stat()
        headers = {"Last-Modified": formatdate(int(about.st_mtime), usegmt=True), "ETag": f'"{about.st_mtime_ns}"'}
        if self.command == "HEAD":
            return self.answer(200, b"", headers | {"Content-Length": str(about.st_size)})
        data = path.read_bytes()
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last or len(data)) + 1, len(data))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            return self.answer(206, data[start:stop], headers)
        return self.answer(200, data, headers)

    def listing(self, asked: dict[str, list[str]]) -> None:
        prefix, delimiter = (asked.get(name, [""])[0] for name in ("prefix", "delimiter"))
        found, folders = [], set()
        for key, path in self.store.objects(prefix):
            below, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if cut:
                folders.add(prefix + below + delimiter)
                continue
            about = path.stat()
            at = datetime.fromtimestamp(int(about.st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            found.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{at}</LastModified><Size>{about.st_size}</Size></Contents>"
            )
        found += [f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders)]
        head = f"<Name>{BUCKET}</Name><KeyCount>{len(found)}</KeyCount><IsTruncated>false</IsTruncated>"
        text = f'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{head}{"".join(found)}</ListBucketResult>'
        self.answer(200, text.encode(), {"Content-Type": "application/xml"})

    do_HEAD = do_GET

    def refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(403)

    do_PUT = do_POST = do_DELETE = refuse


@contextmanager
def serving(folder: Path, delay_s: float = 0.0) -> Iterator[Store]:
    """A bucket of the files below a folder, with its URL."""
    store = Store(folder, delay_s)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfStore", (Handler,), {"store": store}))
    server.daemon_threads = True
    port = server.server_address[1]
    store.url = f"s3://{BUCKET}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
