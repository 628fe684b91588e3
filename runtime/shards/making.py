"""Makes shards, in this process."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from stylert.core.errors import BundleError, SigningError
from stylert.core.files.locks import locked_folder
from stylert.core.images.grids import as_uint8
from stylert.core.machine.host import usable_cores
from stylert.core.progress import Progress
from stylert.core.provenance.credentials import SWITCH
from stylert.core.provenance.signing import active_signer_sha256
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.pictures import check_bundle_channels, encoded_image
from stylert.runtime.media.recipes import Recipe, bundle_hash
from stylert.runtime.media.rendering import check_call
from stylert.runtime.serving.network_calls import SHARES_NETWORK, calls_at_once
from stylert.runtime.shards.files import SeedPicture, check_format, write_shard
from stylert.runtime.shards.work import Shard, ShardWork, begin


def check_work(work: ShardWork, bundle: Bundle) -> None:
    """Check that the work can be done, before anything is written.

    Raises:
        InputError: The network does not take the options, or its images do not fit into the pictures.
        BackendError: A library is missing.
        SigningError: There is a credential, and it cannot sign. Or it is another one than that of the work.
    """
    bundle.check_no_noise_inputs()
    check_bundle_channels(f"seed.{work.picture}", bundle)
    check_call(bundle, work.batch)
    check_format(work.format)
    _check_signer(work)


def make_shards(
    work: ShardWork, bundle: Bundle, folder: Path, threads: int | None = None, report: Progress = lambda *_: None
) -> int:
    """Make the shards that are missing in a folder.

    Args:
        work: The work.
        bundle: Its bundle.
        folder: The folder, which is made if it does not exist. One that has other work is refused.
        threads: CPU threads of the networks.
        report: Called after each shard with the number of images that are there.

    Returns:
        How many shards were made.

    Raises:
        StylertError: As `check_work` and `begin`, or a shard cannot be made or written.
    """
    check_work(work, bundle)
    with _networks(work, bundle, threads) as generators, locked_folder(folder):
        missing = begin(folder, work)
        done = work.images - sum(map(len, missing))
        for shard in missing:
            make_shard(work, generators, shard, folder)
            done += len(shard)
            report("generate", done, work.images)
    return len(missing)


@contextmanager
def _networks(work: ShardWork, bundle: Bundle, threads: int | None) -> Iterator[Sequence[Generator]]:
    """The generators of the calls that run at the same time. A network that several calls may share stands there for each."""
    count, threads_each = calls_at_once(bundle, work.backend, threads)
    networks = 1 if SHARES_NETWORK.get(work.backend) else count
    with ExitStack() as stack:
        generators = [stack.enter_context(loaded(work, bundle, threads_each)) for _ in range(networks)]
        yield generators * (count // networks)


def loaded(work: ShardWork, bundle: Bundle, threads: int | None) -> Generator:
    """The generator of the work, which has made a latent with its options.

    Raises:
        BundleError: The bundle is not that of the work.
        SigningError: This process would not sign as the work does.
        StylertError: As `Generator.load`, or the network does not take the options.
    """
    if bundle_hash(bundle) != work.bundle:
        raise BundleError(f"bundle {bundle.path} was replaced since the work began")
    _check_signer(work)  # a process on another machine may have another key
    generator = Generator.load(bundle, work.backend, work.precision, threads)
    try:
        z = np.zeros((1, bundle.model["z_dim"]), np.float32)
        generator.map(z, work.psi, work.cutoff, _recipe(work, 0, (0,)).labels(1))
    except BaseException:
        generator.close()
        raise
    return generator


def _check_signer(work: ShardWork) -> None:
    """Raise SigningError unless this process signs with the key of the work, so that all its pictures have one signer."""

    def described(sha256: str | None) -> str:
        return "no signature" if sha256 is None else f"signatures by the certificates {sha256[:12]}"

    if (signer := active_signer_sha256()) != work.signer:
        raise SigningError(
            f"the work has {described(work.signer)}, and this process on {socket.gethostname()} makes {described(signer)}: "
            f"let {SWITCH} name the same key everywhere, or be off everywhere"
        )


def make_shard(work: ShardWork, generators: Sequence[Generator], shard: Shard, folder: Path) -> None:
    """Make one shard of the work, with as many calls at the same time as there are generators.

    The file appears whole or not at all.
    """
    suffix = f".{work.picture}"
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="stylert-encode") as pool:
        write_shard(folder / shard.name, _pictures(work, generators, shard, suffix, pool), work.format, suffix)


def _pictures(
    work: ShardWork, generators: Sequence[Generator], shard: Shard, suffix: str, pool: ThreadPoolExecutor
) -> Iterator[SeedPicture]:
    for seeds, images in _images(work, generators, shard):
        recipes = [_recipe(work, seed, seeds).to_json() for seed in seeds]
        files = pool.map(lambda image, recipe: encoded_image(image, suffix, recipe), images, recipes)
        yield from map(SeedPicture, seeds, files, recipes)


def _images(work: ShardWork, generators: Sequence[Generator], shard: Shard) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """The seeds and the images of each batch, in order. The next batches are made meanwhile."""
    free: SimpleQueue[Generator] = SimpleQueue()
    for generator in generators:
        free.put(generator)

    def made(seeds: tuple[int, ...]) -> np.ndarray:
        generator = free.get()
        try:
            return as_uint8(generator(seeds, work.psi, work.cutoff, _recipe(work, seeds[0], seeds).labels(len(seeds))))
        finally:
            free.put(generator)

    remaining = iter(shard.seeds())
    waiting: deque[tuple[tuple[int, ...], Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(len(generators), thread_name_prefix="stylert-network") as pool:
        try:
            while seeds := tuple(islice(remaining, work.batch)):
                waiting.append((seeds, pool.submit(made, seeds)))
                if len(waiting) > len(generators):
                    first, images = waiting.popleft()
                    yield first, images.result()
            for first, images in waiting:
                yield first, images.result()
        finally:
            for _, images in waiting:
                images.cancel()


def _recipe(work: ShardWork, seed: int, together: tuple[int, ...]) -> Recipe:
    return Recipe(
        command="generate",
        bundle=work.bundle,
        backend=work.backend,
        precision=work.precision,
        seeds=(seed,),
        together=together,
        psi=(work.psi,),
        cutoff=work.cutoff,
        label=work.label,
        label_vector=work.label_vector,
        batch=work.batch,
    )
