"""OpenStack Swift with its S3 interface, all of it in one process: `/usr/bin/python3 swift_server.py FOLDER`.

For Debian's python3-swift, not for the project's own Python. Says the port of the proxy once it answers.
"""

import sys
from pathlib import Path

import eventlet
from swift.account.server import AccountController
from swift.common import utils
from swift.common.ring import RingBuilder
from swift.common.storage_policy import reload_storage_policies
from swift.common.wsgi import loadapp
from swift.container.server import ContainerController
from swift.obj.server import ObjectController

HOST = "127.0.0.1"
PROXY = """
[DEFAULT]
swift_dir = {folder}
[pipeline:main]
pipeline = catch_errors s3api tempauth proxy-server
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
"""


class Cache:
    """What Swift asks memcached for, in this process."""

    def __init__(self):
        self.kept = {}

    def get(self, key, raise_on_error=False):
        return self.kept.get(key)

    def set(self, key, value, **_):
        self.kept[key] = value

    def delete(self, key, server_key=None):
        self.kept.pop(key, None)


def build_ring(folder: Path, name: str, port: int) -> None:
    """One device, no copies."""
    ring = RingBuilder(2, 1, 0)
    ring.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, "ip": HOST, "port": port, "device": "disk"})
    ring.rebalance(seed=1)
    ring.get_ring().save(str(folder / f"{name}.ring.gz"))


def main(folder: Path) -> None:
    """Serve what is put into `folder`, until the process is ended."""
    eventlet.monkey_patch()
    (folder / "devices/disk").mkdir(parents=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = test\n")
    (folder / "proxy.conf").write_text(PROXY.format(folder=folder))
    utils.set_swift_dir(str(folder))
    reload_storage_policies()
    conf = {
        "devices": str(folder / "devices"),
        "mount_check": "false",
        "swift_dir": str(folder),
        "disable_fallocate": "yes",
    }
    logger = utils.get_logger({"log_level": "CRITICAL"}, "swift")
    controllers = {"account": AccountController, "container": ContainerController, "object": ObjectController}
    sockets = {name: eventlet.listen((HOST, 0)) for name in controllers}
    for name, socket in sockets.items():
        build_ring(folder, name, socket.getsockname()[1])
    for name, controller in controllers.items():
        eventlet.spawn(eventlet.wsgi.server, sockets[name], controller(conf, logger=logger), log_output=False)
    proxy = eventlet.listen((HOST, 0))
    app, cache = loadapp(str(folder / "proxy.conf")), Cache()
    print(proxy.getsockname()[1], flush=True)
    eventlet.wsgi.server(proxy, lambda env, start: app({**env, "swift.cache": cache}, start), log_output=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
