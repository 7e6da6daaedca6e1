"""SeaweedFS as separate processes, by the commands of docs/scaling.md, with loopback in place of their addresses."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

import servers
from media_storage.dev import store as embedded
from media_storage.dev.pieces import Piece

DOCS = Path(__file__).parent.parent / "docs" / "scaling.md"
GRPC = 10_000  # above its own port, every process takes a second one
# Neither those of servers.py, nor those of another run of the tests on this machine.
FIRST_PORT, LAST_PORT = 18_000 + os.getpid() % 70 * 15, 19_090
SHELL_SECONDS = 60
FOLDERS = {"mdir", "dir", "defaultStoreDir"}


def commands() -> list[str]:
    """What docs/scaling.md tells an operator to run, one process a line."""
    (block,) = re.findall(r"```sh\n(weed master .*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    return [str(line) for line in block.splitlines() if line]


class Places:
    """Gives each address of the documentation a port of its own on loopback, and a folder instead of each machine's root."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._free = iter(
            port for port in range(FIRST_PORT, 32_768 - GRPC) if not embedded.is_taken(port) and not embedded.is_taken(port + GRPC)
        )
        self._ports: dict[tuple[str, str], int] = {}

    def port(self, host: str, port: str) -> int:
        if (host, port) not in self._ports:
            self._ports[host, port] = next(self._free)
        return self._ports[host, port]

    def translate(self, command: str) -> str:
        """The command with every address and path replaced."""
        (host,) = re.findall(r" -ip(?:\.bind)?=(\S+)", command)
        command = re.sub(r"(=|,)(\d+(?:\.\d+){3}):(\d+)", lambda found: f"{found[1]}127.0.0.1:{self.port(found[2], found[3])}", command)
        command = re.sub(r" -port=(\d+)", lambda found: f" -port={self.port(host, found[1])}", command)
        return re.sub(r"=(/\S+)", lambda found: f"={self._folder}/{host}{found[1]}", command.replace(f"={host}", "=127.0.0.1"))


@dataclass
class Member:
    """One process of the cluster, and the options that it was given."""

    piece: Piece
    options: dict[str, str]

    def kill(self) -> None:
        """SIGKILL: a volume server that is asked to end takes ten seconds, and its data is not needed any more."""
        self.piece.send_signal(signal.SIGKILL)
        self.piece.stop()

    @property
    def held(self) -> int:
        """Bytes of a volume server's volumes."""
        return sum(file.stat().st_size for file in Path(self.options["dir"]).glob("*.dat"))


@dataclass
class Cluster:
    """Master, volume servers, filer and S3 gateway; `store` is what the gateway serves."""

    store: servers.RunningStore
    volume_servers: list[Member]
    filer: str
    master: str

    def registered(self) -> int:
        """How many volume servers the master knows."""
        topology = requests.get(f"http://{self.master}/dir/status", timeout=10).json()["Topology"]
        return sum(len(rack["DataNodes"]) for center in topology["DataCenters"] or [] for rack in center["Racks"])

    def kill_volume_server(self) -> None:
        """SIGKILL, to the one that holds most."""
        most = max(self.volume_servers, key=lambda server: server.held)
        self.volume_servers.remove(most)
        most.kill()

    def shell(self, *lines: str) -> str:
        """What `weed shell` printed when it was given these lines."""
        command = [servers.binary("seaweedfs"), "shell", f"-master={self.master}", f"-filer={self.filer}"]
        done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=SHELL_SECONDS, check=True)
        return done.stdout + done.stderr

    def copies(self) -> dict[int, int]:
        """How many living servers have each volume of the bucket."""
        listed = re.findall(rf"volume Id:(\d+), .*Collection:{servers.BUCKET},", self.shell("volume.list"))
        return {int(number): listed.count(number) for number in listed}


def _identities(file: Path) -> None:
    """The gateway's `-config`: one administrator."""
    file.parent.mkdir(parents=True)
    credentials = [{"accessKey": servers.ACCESS_KEY, "secretKey": servers.SECRET_KEY}]
    file.write_text(json.dumps({"identities": [{"name": "admin", "credentials": credentials, "actions": ["Admin"]}]}))


def _start(command: str, folder: Path, log_file: Path) -> Member:
    """Starts a translated command, with the folders that it names."""
    words = shlex.split(command)[1:]
    options = dict(word.lstrip("-").split("=", 1) for word in words[1:])
    for name in FOLDERS & set(options):
        Path(options[name]).mkdir(parents=True)
    if "config" in options:
        _identities(Path(options["config"]))
    if words[0] == "volume":
        words.append("-volume.allowUntrustedRemoteEndpoints=true")  # on loopback no volume would be copied without
    return Member(Piece(words[0], [servers.binary("seaweedfs"), *words], {"HOME": str(folder)}, log_file, cwd=folder), options)


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """The documentation's cluster with its data below `folder`, complete and answering."""
    places = Places(folder)
    with contextlib.ExitStack() as stack:
        members = []
        for number, command in enumerate(commands()):
            members.append(_start(places.translate(command), folder, folder / f"{number}.log"))
            stack.callback(members[-1].kill)
        by_name = {member.piece.name: member for member in members}
        gateway, volume_servers = by_name["s3"], [member for member in members if member.piece.name == "volume"]
        store = servers.RunningStore("seaweedfs", f"http://127.0.0.1:{gateway.options['port']}", gateway.piece)
        running = Cluster(store, volume_servers, gateway.options["filer"], by_name["filer"].options["master"])
        gateway.piece.wait_until(lambda: servers._lists_buckets(store), servers.START_SECONDS)
        gateway.piece.wait_until(lambda: running.registered() == len(volume_servers), servers.START_SECONDS)
        yield running
