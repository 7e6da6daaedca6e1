"""Minutes of mixed traffic with a tenth of faults: ``python tests/soak.py --minutes 3 [--store minio] [--rate 5]``.

Prints the statuses, and how memory and descriptors of the workers grew; exit status 1 when a figure is missed: memory less than
1 MiB in ten minutes (and what a short run cannot tell from noise), descriptors constant, no 5xx that was not provoked.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from faulty import answering, cutting, hanging, http_answer, reset
from pictures import make
from rawclient import UUID, Answer, body_of, connect, head_for, picture, read_answer
from rig import MIB, Rig, running_rig

SAMPLE_SECONDS = 2.0
WARM_SHARE = 0.25  # of the run, before memory is judged
MIB_PER_TEN_MINUTES = 1.0
NOISE = MIB / 2  # of the line's end, in a short run


@dataclass
class Soak:
    """What was answered, provoked or not, and what the workers held meanwhile."""

    rig: Rig
    expected: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    samples: list[tuple[float, float, int]] = field(default_factory=list)  # seconds, bytes, descriptors
    keys: set[str] = field(default_factory=set)  # that were acknowledged
    window: tuple[int, ...] = ()  # what an outage of a piece may make of any upload

    def count(self, what: str, answer: Answer | None, *allowed: int | None) -> None:
        status = answer.status if answer else None
        (self.expected if status in allowed else self.wrong)[f"{what}: {status}"] += 1

    def sample(self, stop: threading.Event, began: float) -> None:
        while not stop.wait(SAMPLE_SECONDS):
            workers = self.rig.workers()
            rss = sum(worker.memory_info().rss for worker in workers) / len(workers)
            self.samples.append((time.monotonic() - began, rss, sum(self.rig.client_fds(worker) for worker in workers)))

    # --- traffic ---

    def upload(self) -> None:
        answer = self.rig.upload(picture(random.choice([2000, 50_000, 500_000, 3_000_000])))
        self.count("upload", answer, 201, *self.window)
        if answer.status == 201:
            self.keys.add(answer.key)

    def read(self) -> None:
        self.count("read", self.send(f"GET /media/uploads/7/{UUID}.jpg HTTP/1.1\r\nHost: x\r\n\r\n".encode()), 302)

    def refused(self) -> None:
        body = body_of(random.choice([b"GIF89a" + b"x" * 5000, make.png()[:20]]))
        self.count("refused", self.send(head_for(len(body)) + body), 415, 422, *self.window)

    def stranger(self) -> None:
        self.count("stranger", self.send(head_for(100_000, "session=mallory") + b"x" * 100_000), 401, *self.window)

    def vanish(self) -> None:
        with connect(self.rig.url) as sock:
            sock.sendall(head_for(400_000) + body_of(picture(400_000))[: random.randrange(1, 400_000)])
            if random.random() < 0.5:
                reset(sock)
        self.expected["vanished"] += 1

    def send(self, message: bytes) -> Answer | None:
        with connect(self.rig.url) as sock:
            sock.sendall(message)
            return read_answer(sock)

    def outage(self) -> None:
        """A second in which the store or the backend misbehaves: whoever uploads then may get 503."""
        self.window = (502, 503)
        front = random.choice([self.rig.store_front, self.rig.backend_front])
        fault = random.choice([answering(http_answer("500 Internal Server Error")), cutting(random.randrange(100, 100_000)), hanging])
        with front.behaving(fault):
            time.sleep(1)
        time.sleep(5)  # those under way have had their answer then
        self.window = ()


def slope(samples: list[tuple[float, float]]) -> float:
    """Of the least squares' line, per second."""
    count = len(samples)
    mean_x, mean_y = sum(x for x, _ in samples) / count, sum(y for _, y in samples) / count
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / sum((x - mean_x) ** 2 for x, _ in samples)


def run(soak: Soak, minutes: float, rate: float) -> bool:
    rig, stop, began = soak.rig, threading.Event(), time.monotonic()
    sampler = threading.Thread(target=soak.sample, args=(stop, began))
    sampler.start()
    ordinary = [soak.upload] * 5 + [soak.read] * 4
    faults = [soak.refused, soak.stranger, soak.vanish]
    next_outage = began + 10
    with ThreadPoolExecutor(64) as pool:
        number = 0
        while (now := time.monotonic()) < began + minutes * 60:
            pool.submit(random.choice(faults if random.random() < 0.1 else ordinary))
            if now >= next_outage:
                pool.submit(soak.outage)
                next_outage = now + 20
            number += 1
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
    stop.set()
    sampler.join()
    end = time.monotonic() - began
    judged = [(at, rss) for at, rss, _ in soak.samples if at > end * WARM_SHARE]
    growth = slope(judged) * 600 / MIB
    allowed = MIB_PER_TEN_MINUTES + NOISE / MIB * 600 / (end * (1 - WARM_SHARE))
    first, last = judged[0][1], judged[-1][1]
    at_rest = rig.at_rest()
    print(f"{rig.live.store.kind}, {end:.0f} s, {number} requests")
    print(f"as expected: {dict(sorted(soak.expected.items()))}")
    print(f"not expected: {dict(soak.wrong) or 'none'}")
    print(f"memory of a worker: {first / MIB:.1f} to {last / MIB:.1f} MiB, slope {growth:+.2f} MiB in 10 minutes (at most {allowed:.1f})")
    fds = [count for _, _, count in soak.samples]
    print(f"descriptors: {min(fds)} at least, {max(fds)} at most; back at base: {'yes' if at_rest else 'NO'}")
    return not soak.wrong and growth <= allowed and at_rest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--rate", type=float, default=5, help="requests per second")
    parser.add_argument("--store", choices=["seaweedfs", "minio"], default="minio")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_rig(options.store, Path(folder)) as rig, rig.unharmed() as acknowledged:
        before = rig.live.store.object_keys()
        soak = Soak(rig)
        good = run(soak, options.minutes, options.rate)
        stored = rig.live.store.object_keys() - before
        # An outage may cut off the store's answer and what would take the object back: the contract's one window.
        lost, more = soak.keys - stored, stored - soak.keys
        print(f"acknowledged: {len(soak.keys)}, of them lost: {len(lost)}; stored and answered 503: {len(more)}")
        acknowledged.update(stored)
    return 0 if good and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
