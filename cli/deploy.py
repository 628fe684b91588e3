"""Declares `stylert deploy`: a bundle as a model repository of Triton Inference Server, or as an application of Ray Serve."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from stylert.cli.app import BundlePath, CommandGroup, OneBackend, Threads, app, positive
from stylert.cli.console import print_line
from stylert.cli.serving_options import MaxBatch, MaxDelay

deploy = CommandGroup(help="Write a bundle for another server.", no_args_is_help=True)
app.add_typer(deploy, name="deploy")


@deploy.callback()
def _group() -> None:
    """Write a bundle for another server."""


@deploy.command("triton")
def triton(
    bundle: BundlePath,
    out: Annotated[Path, typer.Option(help="Folder of the model repository.")],
    name: Annotated[str | None, typer.Option(help="Name of the model; by default that of the bundle's folder.")] = None,
    backend: Annotated[str, typer.Option(help="Triton's backend: onnxruntime, openvino, tensorrt, or python.")] = "onnxruntime",
    precision: Annotated[str | None, typer.Option(help="One precision of the bundle; by default fp32.")] = None,
    generator_backend: Annotated[str, typer.Option(help="With --backend python, the backend of stylert.")] = "onnxruntime",
    engine: Annotated[
        str | None, typer.Option(help="With --backend tensorrt, the name of the engine's folder, if there are several.")
    ] = None,
    max_batch: MaxBatch = 8,
    max_delay: MaxDelay = 0.0,
    instances: Annotated[int, typer.Option(min=1, max=64, help="Copies of each network.")] = 1,
    threads: Threads = None,
    vnni: Annotated[
        bool | None, typer.Option(help="Whether the server's processor adds bytes exactly; by default as this one.")
    ] = None,
    cache: Annotated[bool, typer.Option("--cache", help="Let Triton keep answers.")] = False,
) -> None:
    """Write a bundle as a model repository of Triton Inference Server: mapping, synthesis, and an ensemble of both."""
    from stylert.runtime.bundle import Bundle
    from stylert.runtime.serving.triton.options import TritonOptions
    from stylert.runtime.serving.triton.repository import write_repository

    options = TritonOptions(
        name=os.path.basename(os.path.realpath(bundle)) if name is None else name,
        backend=backend,
        precision=precision,
        generator_backend=generator_backend,
        engine=engine,
        max_batch=max_batch,
        max_delay_ms=max_delay,
        instances=instances,
        threads=threads,
        vnni=vnni,
        cache=cache,
    )
    repository = write_repository(Bundle.load(bundle), out, options)
    print_line(f"wrote {', '.join(repository.models)} to {out}: {shlex.join(repository.command)}")


@deploy.command("ray")
def ray(
    bundle: BundlePath,
    out: Annotated[Path, typer.Option(help="Folder of the application, on a file system that all nodes share.")],
    name: Annotated[str | None, typer.Option(help="Name of the application; by default that of the bundle's folder.")] = None,
    backend: OneBackend = "onnxruntime",
    precision: Annotated[str | None, typer.Option(help="One precision of the bundle; by default fp32.")] = None,
    max_batch: MaxBatch = 8,
    max_delay: MaxDelay = 0.0,
    replicas: Annotated[str, typer.Option(help="Number of replicas, or least and greatest, such as 1:8.")] = "1",
    threads: Threads = None,
    host: Annotated[str, typer.Option(help="Address at which every node accepts requests.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Its port.")] = 8000,
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="Seconds for an answer.")] = 60.0,
    stop: Annotated[float, typer.Option(min=1, max=3600, help="Seconds that a replica has to finish before it ends.")] = 60.0,
    place: Annotated[str | None, typer.Option(help="Path of the folder on the nodes, if it is not that of --out.")] = None,
) -> None:
    """Write a bundle as an application of Ray Serve: replicas with dynamic batching, health checks and rolling updates."""
    from stylert.runtime.bundle import Bundle
    from stylert.runtime.serving.ray_serve.deployment import RayOptions, write_application

    least, colon, greatest = replicas.partition(":")
    options = RayOptions(
        name=os.path.basename(os.path.realpath(bundle)) if name is None else name,
        backend=backend,
        precision=precision,
        threads=threads or 1,
        max_batch=max_batch,
        max_delay_ms=max_delay,
        min_replicas=positive(least, "--replicas"),
        max_replicas=positive(greatest if colon else least, "--replicas"),
        host=host,
        port=port,
        timeout_seconds=timeout,
        stop_seconds=stop,
        place=place,
    )
    configuration = write_application(Bundle.load(bundle), out, options)
    print_line(f"wrote {configuration}: serve deploy {configuration}")
