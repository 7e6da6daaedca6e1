"""Finds and describes an object store that can run beside the service: MinIO when it is there, else SeaweedFS."""

import shutil
import socket
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# SeaweedFS is several servers in one process; each would take a well-known port, one of them this service's own.
_SEAWEEDFS_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port.grpc",
    "admin.port",
    "admin.port.grpc",
)
FIRST_INNER_PORT = 29_000


@dataclass(frozen=True)
class Program:
    """A command that serves S3 on loopback, and what it needs in its environment."""

    name: str
    command: list[str]
    environ: dict[str, str]


def is_taken(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((host, port), timeout=0.5).close()
    except OSError:
        return False
    return True


def find_minio(folder: Path) -> str | None:
    """``minio`` on the PATH or in `folder`, as people who downloaded it keep it."""
    name = "minio.exe" if sys.platform == "win32" else "minio"
    beside = folder / name
    return shutil.which("minio") or (str(beside.resolve()) if beside.is_file() else None)


def find_weed() -> str | None:
    """``weed`` on the PATH, or where pip put it for this interpreter."""
    return shutil.which("weed") or shutil.which("weed", path=sysconfig.get_path("scripts"))


def minio(binary: str, data: Path, port: int, access_key: str, secret_key: str) -> Program:
    """MinIO with its data under `data`, without its web console."""
    command = [binary, "server", str(data), "--address", f"127.0.0.1:{port}", "--quiet"]
    environ = {"MINIO_ROOT_USER": access_key, "MINIO_ROOT_PASSWORD": secret_key, "MINIO_BROWSER": "off", "MINIO_UPDATE": "off"}
    return Program("MinIO", command, environ)


def seaweedfs(binary: str, data: Path, port: int, access_key: str, secret_key: str, *, first_port: int = FIRST_INNER_PORT) -> Program:
    """SeaweedFS with its data under `data`; its inner ports are the first free ones from `first_port` on."""
    inner = iter(candidate for candidate in range(first_port, 65_536) if not is_taken(candidate))
    options = {
        "dir": str(data),
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.port": str(port),
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        "s3.autoCreateBucket": "false",  # a bucket that got lost would come back without its policy
        "webdav": "false",
        "admin.ui": "false",
        "master.telemetry": "false",
        **{name: str(next(inner)) for name in _SEAWEEDFS_PORTS},
    }
    command = [binary, f"-logdir={data}", "mini", *(f"-{name}={value}" for name, value in options.items())]
    return Program("SeaweedFS", command, {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key})


def find(folder: Path, data: Path, port: int, access_key: str, secret_key: str) -> Program | None:
    """The store to start, with its data in a folder of its own below `data`; None when none is installed."""
    if binary := find_minio(folder):
        return minio(binary, data / "minio", port, access_key, secret_key)
    if binary := find_weed():
        return seaweedfs(binary, data / "seaweedfs", port, access_key, secret_key)
    return None
