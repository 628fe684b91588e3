"""Puts loads on `stylert serve` and prints each beside what the same network does without a server.

    python examples/serve_load.py bundle --backend openvino --precision int8 --threads 1

It measures, in one run:

- a single request: its median over that of the same call in this process, the two in turn;
- the offline rate without a server: full batches, in the calls that the server would make at the same time;
- the offline rate of the server: `--clients` clients whose next request is always there;
- the highest rate of arrivals at random (a Poisson process) whose 99th percentile is within `--target` milliseconds, as a share of both;
- `--requests` requests of `--clients` clients that each wait for their answer: rate, failures, images per batch, and the server's memory;
- a naive server, FastAPI around `Generator`, under the same clients.

Requests are those of the KServe protocol with the pixels as bytes, unless the line says png. Clients and servers share the cores of
this machine, so all rates of servers are lower bounds.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
import asyncio
import itertools
import json
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import numpy as np

from stylert.core.child_processes import check_status
from stylert.core.errors import BackendError
from stylert.core.machine.host import cpu_name
from stylert.core.programs.runner import run_program
from stylert.core.programs.stop_signals import STOP_SIGNALS
from stylert.runtime import Generator
from stylert.runtime.build_options import check_threads
from stylert.runtime.bundle import Bundle
from stylert.runtime.serving.network_calls import NetworkCalls, load_calls

PSI = 0.7
#: Clients at once: each is a connection.
MAX_CLIENTS = 10_000
FRACTIONS = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)


def infer_request(name: str, seed: int) -> bytes:
    """One request of the KServe protocol."""
    inputs = [
        {"name": "seed", "datatype": "INT64", "shape": [1], "data": [seed]},
        {"name": "psi", "datatype": "FP32", "shape": [1], "data": [PSI]},
    ]
    body = json.dumps({"inputs": inputs, "outputs": [{"name": "image", "parameters": {"binary_data": True}}]}).encode()
    return b"POST /v2/models/%s/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
        name.encode(),
        len(body),
        body,
    )


def get_request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def answer_length(data: bytes | bytearray) -> int:
    """Bytes of the answer at the beginning of `data`; 0 as long as its head is not there."""
    end = data.find(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", data[:end], re.IGNORECASE) if end >= 0 else None
    return 0 if length is None else end + 4 + int(length[1])


class Connection(asyncio.Protocol):
    """A connection that stays open and has one request at a time."""

    def __init__(self) -> None:
        self._data, self._length = bytearray(), 0
        self._done: asyncio.Future[bool] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._length = self._length or answer_length(self._data)
        if self._length and len(self._data) >= self._length and self._done is not None:
            self._done.set_result(self._data[9:12] == b"200")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(False)

    async def ask(self, request: bytes) -> bool:
        """Whether the answer has status 200."""
        self._data.clear()
        self._length = 0
        self._done = asyncio.get_running_loop().create_future()
        if self.is_closed:
            return False
        self._transport.write(request)  # type: ignore[attr-defined]
        async with asyncio.timeout(60):
            return await self._done

    def close(self) -> None:
        self._transport.close()

    @property
    def is_closed(self) -> bool:
        return self._transport.is_closing()


async def connect(port: int) -> Connection:
    return (await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port))[1]


async def closed_loop(port: int, requests: Iterator[bytes], clients: int) -> tuple[float, int, int]:
    """Clients that each send a request after the answer of the last. Returns the seconds, and the numbers of failures and requests."""
    failures = count = 0

    async def client() -> None:
        nonlocal failures, count
        connection = await connect(port)
        for request in requests:
            count += 1
            failures += not await connection.ask(request)
            if connection.is_closed:
                connection = await connect(port)
        connection.close()

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - begin, failures, count


async def arrivals(port: int, name: str, rate: float, seconds: float) -> tuple[np.ndarray, int]:
    """Requests at random times. Returns the latencies in milliseconds from the time of each arrival, and the failures."""
    idle = [await connect(port) for _ in range(16)]
    latencies: list[float] = []
    failures = 0
    generator = random.Random(0)

    async def one(arrival: float, seed: int) -> None:
        nonlocal failures
        connection = idle.pop() if idle else await connect(port)
        failures += not await connection.ask(infer_request(name, seed))
        latencies.append(1000 * (time.perf_counter() - arrival))
        if not connection.is_closed:
            idle.append(connection)

    tasks: list[asyncio.Task[None]] = []
    begin = next_arrival = time.perf_counter()
    while next_arrival < begin + seconds:
        if (delay := next_arrival - time.perf_counter()) > 0:
            await asyncio.sleep(delay)
        tasks.append(asyncio.create_task(one(next_arrival, len(tasks))))
        next_arrival += generator.expovariate(rate)
    await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    await asyncio.sleep(0.1)  # until they are closed
    return np.array(latencies), failures


class Server:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    @property
    def memory(self) -> float:
        """Resident memory in MiB."""
        return (
            int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8"))[0]) / 1024
        )

    def metric(self, name: str) -> float:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            text = b"".join(_answer(connection, get_request("/metrics")))
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text.decode(), re.MULTILINE))


def _answer(connection: socket.socket, request: bytes) -> list[bytes]:
    """The parts of an answer, over a blocking socket."""
    connection.sendall(request)
    data = bytearray()
    while not (length := answer_length(data)) or len(data) < length:
        data += connection.recv(2**20)
    return [bytes(data)]


@contextmanager
def started(command: list[str]) -> Iterator[Server]:
    environment = {name: value for name, value in os.environ.items() if name != "STYLERT_API_KEY"}
    waiting: list[int] = []
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in handlers.items():  # a signal in the middle of the start would leave a server that nobody knows
        if handler != signal.SIG_IGN:
            signal.signal(number, lambda number, _: waiting.append(number))
    # A group of its own: Ctrl-C in a terminal comes to this process alone, which ends the server.
    with subprocess.Popen(
        [sys.executable, "-P", *command],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=environment,
        process_group=0,
    ) as process:
        is_listening = False
        try:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if waiting:
                signal.raise_signal(waiting[0])
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                check_status("the server", process.wait())
                raise BackendError("the server ended before it began to listen")
            is_listening = True
            yield Server(process, int(line.strip().rsplit(":", 1)[1]))
        finally:
            if is_listening:
                process.terminate()
            else:  # it would print `stopped`, as this process does
                process.kill()
            process.wait()  # `Popen` itself leaves a process to itself after KeyboardInterrupt


def single(server: Server, name: str, g: Generator, seconds: float) -> None:
    """One request at a time, in turn with calls in this process."""
    times: dict[str, list[float]] = {"in process": [], "server, bytes": [], "server, png": []}
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end, seed = time.perf_counter() + seconds, 0
        while time.perf_counter() < end or seed < 3:
            seed += 1
            calls = [
                ("in process", lambda seed=seed: g([seed], PSI)),
                ("server, bytes", lambda seed=seed: _answer(connection, infer_request(name, seed))),
                ("server, png", lambda seed=seed: _answer(connection, get_request(f"/v1/images/{seed}.png?psi={PSI}"))),
            ]
            random.shuffle(calls)
            for kind, call in calls:
                begin = time.perf_counter()
                call()
                times[kind].append(1000 * (time.perf_counter() - begin))
    alone = median(times["in process"])
    for kind, values in times.items():
        print(
            f"single, {kind:14} median {median(values):8.2f} ms  ({median(values) - alone:+.2f} ms, {len(values)} calls)",
            flush=True,
        )


def offline_rate(calls: NetworkCalls, batch: int, seconds: float) -> float:
    """Images per second in full batches, without a server: in one call at a time, or in several if that is faster."""
    return max(_rate_of([calls.whole], batch, seconds), _rate_of(calls.narrow, batch, seconds) if calls.narrow else 0.0)


def _rate_of(networks: Sequence[Generator], batch: int, seconds: float) -> float:
    def images(network: Generator) -> int:
        count = 0
        while time.perf_counter() < end:
            network(range(count, count + batch), PSI)
            count += batch
        return count

    with ThreadPoolExecutor(len(networks)) as pool:
        list(pool.map(lambda network: network(range(batch), PSI), networks))
        begin = time.perf_counter()
        end = begin + seconds
        return sum(pool.map(images, networks)) / (time.perf_counter() - begin)


def random_arrivals(server: Server, name: str, calls: NetworkCalls, options: argparse.Namespace) -> None:
    """The highest fraction of the server's offline rate that it answers in time."""
    for fraction in FRACTIONS:  # the rates again for each, as other work of the machine changes
        without = offline_rate(calls, options.max_batch, options.seconds / 2)
        requests = until(time.perf_counter() + options.seconds / 2, name)
        seconds, _, offline = asyncio.run(closed_loop(server.port, requests, options.clients[0]))
        offline /= seconds
        rate = fraction * offline
        latencies, failures = asyncio.run(arrivals(server.port, name, rate, options.seconds))
        p50, p99 = np.percentile(latencies, [50, 99])
        print(
            f"arrivals at {rate:.0f}/s: {fraction:.0%} of the server's offline rate, {rate / without:.0%} of that without a server; "
            f"p50 {p50:.1f}  p99 {p99:.1f} ms, {failures} failed",
            flush=True,
        )
        if p99 <= options.target and not failures:
            return


def until(end: float, name: str) -> Iterator[bytes]:
    """Requests until a time of `time.perf_counter`."""
    seeds = itertools.count()
    while time.perf_counter() < end:
        yield infer_request(name, next(seeds))


def many_clients(server: Server, name: str, options: argparse.Namespace, clients: int) -> float:
    """Many clients at once, in ten parts. Returns the requests per second."""
    seconds, failures, memory = 0.0, 0, [server.memory]
    calls, images = server.metric("stylert_batch_images_count"), server.metric("stylert_images_total")
    each = max(options.requests // 10, clients)
    for part in range(10):
        requests = (infer_request(name, seed) for seed in range(part * each, (part + 1) * each))
        part_seconds, part_failures, _ = asyncio.run(closed_loop(server.port, requests, clients))
        seconds, failures = seconds + part_seconds, failures + part_failures
        memory.append(server.memory)
    batch = (server.metric("stylert_images_total") - images) / (server.metric("stylert_batch_images_count") - calls)
    print(
        f"{10 * each} requests of {clients} clients: {10 * each / seconds:.0f}/s, {failures} failed, {batch:.2f} images per batch; "
        f"memory {memory[0]:.0f} MiB before, {memory[1]:.0f} after a tenth, {memory[-1]:.0f} at the end",
        flush=True,
    )
    return 10 * each / seconds


def naive_load(port: int, options: argparse.Namespace, clients: int) -> float:
    """The rate of the naive server with a tenth of the requests."""
    count = max(options.requests // 10, clients)
    requests = (get_request(f"/{seed}") for seed in range(count))
    seconds, failures, _ = asyncio.run(closed_loop(port, requests, clients))
    print(f"naive server, {clients} clients: {count / seconds:.0f}/s, {failures} failed", flush=True)
    return count / seconds


def serve_naively(options: argparse.Namespace) -> None:
    """FastAPI around `Generator`, as one writes it first."""
    import uvicorn
    from fastapi import FastAPI, Response

    app = FastAPI()
    g = Generator.load(options.bundle, options.backend, options.precision, options.threads)
    g([0], PSI)

    @app.get("/{seed}")
    def image(seed: int) -> Response:
        return Response(g([seed], PSI).tobytes(), media_type="application/octet-stream")

    listener = socket.create_server(("127.0.0.1", 0))
    print(f"naive:{listener.getsockname()[1]}", flush=True)
    with suppress(KeyboardInterrupt):  # of the signal that has ended it
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listener])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--target", type=float, default=50.0, help="milliseconds of the 99th percentile")
    parser.add_argument("--clients", type=lambda text: [int(part) for part in text.split(",")], default=[64])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--naive", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (0.1 <= options.seconds <= 86_400 and 0 < options.target < math.inf):
        parser.error("--seconds is a number from 0.1 to 86400, and --target one of more than 0")
    if min(*options.clients, options.requests, options.max_batch, 1) < 1 or max(options.clients) > MAX_CLIENTS:
        parser.error(f"--clients is from 1 to {MAX_CLIENTS}, and --requests and --max-batch are at least 1")
    check_threads(options.threads)
    if options.naive:
        serve_naively(options)
        return
    shared = ["--backend", options.backend, "--precision", options.precision]
    shared += ["--threads", str(options.threads)] if options.threads else []
    serve = ["-m", "stylert.cli.main", "serve", f"load={options.bundle}", "--port", "0", "--quiet", *shared]
    bundle = Bundle.load(options.bundle)
    print(f"{options.backend} {options.precision}, threads {options.threads or 'by the library'}, {cpu_name()}")
    calls = load_calls(bundle, options.backend, options.precision, options.threads, options.max_batch)
    with started([*serve, "--max-batch", str(options.max_batch)]) as server:
        asyncio.run(closed_loop(server.port, (infer_request("load", seed) for seed in range(32)), 4))  # warm
        single(server, "load", calls.whole, options.seconds)
        random_arrivals(server, "load", calls, options)
        rates = [many_clients(server, "load", options, clients) for clients in options.clients]
    calls.close()
    with started([__file__, str(options.bundle), *shared, "--naive"]) as naive:
        for clients, rate in zip(options.clients, rates, strict=True):
            print(f"that is {rate / naive_load(naive.port, options, clients):.2f} times as fast")


if __name__ == "__main__":
    run_program("serve_load", main)
