"""A real object store: OpenStack Swift with its S3 interface, as Debian ships it, and a proxy that answers late."""

import os
import socket
import socketserver
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import fs

from support.object_store import BUCKET

PYTHON = "/usr/bin/python3"  # Debian's, which has Debian's Swift
SERVER = Path(__file__).with_name("swift_server.py")
ACCOUNT = {"AWS_ACCESS_KEY_ID": "test:tester", "AWS_SECRET_ACCESS_KEY": "testing"}


def here() -> bool:
    """Whether Swift is installed (tests/setup_system.sh does it)."""
    return Path("/usr/lib/python3/dist-packages/swift/proxy/server.py").exists()


class Late:
    """A proxy on this machine: what the server behind it answers comes `delay_s` late; `asked` counts methods."""

    def __init__(self, port: int, delay_s: float) -> None:
        self.behind, self.delay_s = port, delay_s
        self.asked: Counter[str] = Counter()
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), self._serve)  # type: ignore[arg-type]
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def __enter__(self) -> "Late":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, asking: socket.socket, *_: object) -> None:
        waits = threading.Event()
        with socket.create_connection(("127.0.0.1", self.behind)) as behind:
            threading.Thread(target=self._ask, args=(asking, behind, waits), daemon=True).start()
            while data := behind.recv(1 << 16):
                if waits.is_set():  # the first bytes of an answer
                    waits.clear()
                    time.sleep(self.delay_s)
                asking.sendall(data)

    def _ask(self, asking: socket.socket, behind: socket.socket, waits: threading.Event) -> None:
        with suppress(OSError):  # the other side has gone
            while data := asking.recv(1 << 16):
                self.asked[data.split(b" ", 1)[0].decode("latin-1")] += 1
                waits.set()
                behind.sendall(data)
            behind.shutdown(socket.SHUT_RDWR)


@contextmanager
def swift(state: Path) -> Iterator[int]:
    """Port of a Swift that keeps its objects below `state`."""
    server = subprocess.Popen([PYTHON, str(SERVER), str(state)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield int(server.stdout.readline())
    finally:
        server.terminate()
        server.wait(10)
        server.stdout.close()


def url_of(port: int) -> str:
    """Of the bucket behind a port."""
    return f"s3://{BUCKET}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"


def upload(folder: Path, port: int) -> None:
    """Put the files below a folder into the bucket; they get the times that the store gives the objects."""
    # Swift 2.30 knows no checksums that follow the data, which newer clients send unless told not to
    os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"
    store = fs.S3FileSystem(
        endpoint_override=f"127.0.0.1:{port}",
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
        allow_delayed_open=True,
    )
    store.create_dir(BUCKET)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        key = f"{BUCKET}/{path.relative_to(folder)}"
        with store.open_output_stream(key) as out:
            out.write(path.read_bytes())
        at = store.get_file_info(key).mtime_ns
        os.utime(path, ns=(at, at))
