"""Sends files of a cluster's storage to a port-forward, as tar archives over HTTP; runs as a job, with the root as argument.

``POST /`` with a JSON list of patterns has the files and folders that match them, relative to the root: in a URL there is no
room for those of some hundred runs. Only processes in the head's pod reach it. The last member of an archive says that it is
complete.
"""

import glob
import gzip
import json
import os
import sys
import tarfile
from http.server import BaseHTTPRequestHandler, HTTPServer

IDLE = 60.0
"""Seconds without a request until it ends by itself, after a command that was killed."""
COMPLETE = ".complete"


class Server(HTTPServer):
    """Serves one request after the other."""

    def __init__(self, root: str) -> None:
        super().__init__(("127.0.0.1", 0), Files)
        self.root, self.timeout, self.ended = root, IDLE, False

    def handle_timeout(self) -> None:
        self.ended = True


class Files(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server

    def do_POST(self) -> None:
        patterns = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        root = self.server.root
        packed = gzip.GzipFile(fileobj=self.wfile, mode="wb", compresslevel=1)
        with packed, tarfile.open(fileobj=packed, mode="w|") as archive:
            for pattern in patterns:
                for path in sorted(glob.glob(os.path.join(glob.escape(root), pattern))):
                    add(archive, path, root)
            archive.addfile(tarfile.TarInfo(COMPLETE))


def add(archive: tarfile.TarFile, path: str, root: str) -> None:
    """Add a file or a folder, without what is being written or is deleted meanwhile."""
    try:
        archive.add(path, os.path.relpath(path, root), recursive=False)
        below = sorted(os.listdir(path)) if os.path.isdir(path) and not os.path.islink(path) else []
    except FileNotFoundError:
        return
    for name in below:
        if not name.endswith(".tmp"):
            add(archive, os.path.join(path, name), root)


if __name__ == "__main__":
    server = Server(sys.argv[1])
    print(f"serving at {server.server_port}", flush=True)
    while not server.ended:
        server.handle_request()
