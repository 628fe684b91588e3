"""Puts a load on `stylert serve` and prints rate and latencies, beside those of the same network without a server.

    python examples/serve_load.py bundle --seconds 5 --clients 1,8,64

Each client asks for one image after another, over a connection that stays open. Client and server share the cores of this machine, so
the rates are lower bounds. `--max-batch 1` serves without batches, for comparison.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from stylert.runtime import Generator


async def client(port: int, seed: int, end: float, latencies: list[float], failures: list[str]) -> None:
    """Ask for images until the time is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < end:
        begin = time.perf_counter()
        writer.write(f"GET /v1/images/{seed}.jpg?psi=0.7 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
        latencies.append(1000 * (time.perf_counter() - begin))
        if " 200 " not in head.splitlines()[0]:
            failures.append(head.splitlines()[0])
        seed += 1
    writer.close()


async def load(port: int, clients: int, seconds: float) -> tuple[list[float], list[str]]:
    """Latencies in milliseconds, and the status lines of failures."""
    latencies: list[float] = []
    failures: list[str] = []
    end = time.perf_counter() + seconds
    await asyncio.gather(*(client(port, 1000 * i, end, latencies, failures) for i in range(clients)))
    return latencies, failures


def row(name: str, latencies: list[float], seconds: float, failures: list[str]) -> str:
    p50, p95, p99 = np.percentile(latencies, [50, 95, 99])
    rate = len(latencies) / seconds
    return f"{name:24} {rate:8.1f} images/s   p50 {p50:7.2f}  p95 {p95:7.2f}  p99 {p99:7.2f} ms   {len(failures)} failed"


def in_process(options: argparse.Namespace) -> None:
    """Single images without a server: the time that a client cannot go below."""
    with Generator.load(options.bundle, options.backend, options.precision, options.threads) as g:
        times: list[float] = []
        end = time.perf_counter() + options.seconds
        while time.perf_counter() < end:
            begin = time.perf_counter()
            g([len(times)], 0.7)
            times.append(1000 * (time.perf_counter() - begin))
    print(row("in process", times[5:], options.seconds, []))


def served(options: argparse.Namespace, max_batch: int) -> None:
    """A server of its own process under each number of clients."""
    command = [sys.executable, "-m", "stylert.cli.main", "serve", str(options.bundle), "--port", "0", "--quiet"]
    command += ["--backend", options.backend, "--precision", options.precision, "--max-batch", str(max_batch)]
    command += ["--threads", str(options.threads)] if options.threads else []
    environment = {name: value for name, value in os.environ.items() if name != "STYLERT_API_KEY"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        port = int(line.strip().rsplit(":", 1)[1])
        asyncio.run(load(port, 4, 0.5))  # warm
        for clients in options.clients:
            latencies, failures = asyncio.run(load(port, clients, options.seconds))
            print(row(f"batch {max_batch}, {clients} clients", latencies, options.seconds, failures), flush=True)
            if failures:
                print(json.dumps(sorted(set(failures))))
        server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 64])
    parser.add_argument("--max-batch", type=lambda text: [int(part) for part in text.split(",")], default=[8, 1])
    options = parser.parse_args()
    in_process(options)
    for max_batch in options.max_batch:
        served(options, max_batch)


if __name__ == "__main__":
    main()
