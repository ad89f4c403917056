"""A file system that shows what others change only after a while, as NFS caches attributes.

    python late_file_system.py FOLDER MOUNTED SECONDS

shows FOLDER at MOUNTED, where the kernel remembers for some seconds what there is and what is not.
"""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CACHED = ("st_gid", "st_mode", "st_nlink", "st_size", "st_uid")
TIMES = ("st_atime", "st_ctime", "st_mtime")


def serve(folder: str, mounted: str, seconds: str) -> None:
    from mfusepy import FUSE, FuseOSError, Operations

    class Passthrough(Operations):
        use_ns = True

        def getattr(self, path: str, handle: int | None = None) -> dict[str, Any]:
            try:
                status = os.lstat(folder + path)
            except OSError as error:
                raise FuseOSError(error.errno or errno.EIO) from None
            times = {name: getattr(status, f"{name}_ns") for name in TIMES}
            return {name: getattr(status, name) for name in CACHED} | times

        def readdir(self, path: str, handle: int) -> list[str]:
            return [".", "..", *os.listdir(folder + path)]

        def open(self, path: str, flags: int) -> int:
            return os.open(folder + path, flags)

        def create(self, path: str, mode: int, info: Any = None) -> int:
            return os.open(folder + path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

        def read(self, path: str, size: int, offset: int, handle: int) -> bytes:
            return os.pread(handle, size, offset)

        def write(self, path: str, data: bytes, offset: int, handle: int) -> int:
            return os.pwrite(handle, data, offset)

        def truncate(self, path: str, length: int, handle: int | None = None) -> int:
            os.truncate(folder + path, length)
            return 0

        def release(self, path: str, handle: int) -> int:
            os.close(handle)
            return 0

        def rename(self, old: str, new: str) -> int:
            os.rename(folder + old, folder + new)
            return 0

        def mkdir(self, path: str, mode: int) -> int:
            os.mkdir(folder + path, mode)
            return 0

        def rmdir(self, path: str) -> int:
            os.rmdir(folder + path)
            return 0

        def unlink(self, path: str) -> int:
            os.unlink(folder + path)
            return 0

        def chmod(self, path: str, mode: int) -> int:
            os.chmod(folder + path, mode)
            return 0

        def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
            os.utime(folder + path, ns=times)
            return 0

        def flush(self, path: str, handle: int) -> int:
            return 0

        def fsync(self, path: str, datasync: int, handle: int) -> int:
            return 0

    late = {f"{name}_timeout": float(seconds) for name in ("attr", "entry", "negative")}
    FUSE(Passthrough(), mounted, foreground=True, nothreads=False, **late)


@contextmanager
def mounted_late(folder: Path, mounted: Path, seconds: float) -> Iterator[None]:
    """Shows a folder at another place, where changes made elsewhere are seen late."""
    mounted.mkdir()
    command = [sys.executable, __file__, str(folder), str(mounted), str(seconds)]
    with subprocess.Popen(command) as server:
        while not mounted.is_mount():
            assert server.poll() is None, "the file system was not mounted"
            time.sleep(0.05)
        try:
            yield
        finally:
            subprocess.run(["fusermount3", "-u", str(mounted)], check=True)
            server.wait(30)


if __name__ == "__main__":
    serve(*sys.argv[1:])
