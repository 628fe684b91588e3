"""Writes a bundle as a model repository of Triton Inference Server."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from stylert.core.errors import BackendError
from stylert.core.files.marks import marked_directory
from stylert.runtime.bundle import Bundle
from stylert.runtime.serving.triton.configurations import models_of
from stylert.runtime.serving.triton.options import TritonOptions
from stylert.runtime.serving.triton.protobuf_text import message_text

#: Written into each repository, so that a later run knows the folder as its own.
MARK = "stylert-repository.json"
#: Bytes of the cache in the command that starts the server.
CACHE_BYTES = 2**28


@dataclass(frozen=True)
class Repository:
    """A repository that was written.

    Attributes:
        models: The names of its models, the one that clients call last.
        command: The words that start Triton with it.
    """

    models: tuple[str, ...]
    command: tuple[str, ...]


def write_repository(bundle: Bundle, out: str | Path, options: TritonOptions) -> Repository:
    """Write the model repository. It replaces one that was written before, and no other folder.

    Args:
        bundle: The bundle. Its files are copied, and their hashes checked.
        out: The folder of the repository.
        options: How Triton runs the models.

    Returns:
        The models, and how to start Triton.

    Raises:
        InputError: The bundle lacks the precision or the engine of TensorRT, or takes noise as inputs.
        BackendError: The engine has no weights, or a library that writes the network is missing.
        BundleError: A file of the bundle is damaged.
        OutputError: The folder cannot be written, or holds other files.
    """
    bundle.check_no_noise_inputs()
    others = [tensor.name for tensor in bundle.synthesis_tensors if tensor.is_input and tensor.name != "ws"]
    if others and options.backend != "python":
        raise BackendError(f"the network of bundle {bundle.path} also takes {others[0]}, which only --backend python gives it")
    models = models_of(bundle, options.precision or bundle.default_precision, options)
    with marked_directory(out, MARK, [bundle.path]) as folder:
        for name, model in models.items():
            version = folder / name / "1"
            version.mkdir(parents=True)  # an ensemble has no files, and still needs its folder
            (folder / name / "config.pbtxt").write_text(message_text({"name": name, **model.config}), encoding="utf-8")
            for target, source in model.files.items():
                (version / target).parent.mkdir(exist_ok=True)
                if isinstance(source, bytes):
                    (version / target).write_bytes(source)
                else:
                    shutil.copyfile(source, version / target)
    needed = [option for model in models.values() for option in model.server_options]
    cache = [f"--cache-config=local,size={CACHE_BYTES}"] if options.cache else []
    return Repository(tuple(models), ("tritonserver", f"--model-repository={os.path.realpath(out)}", *needed, *cache))
