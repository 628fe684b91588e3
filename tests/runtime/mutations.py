"""Files of a bundle, changed at random places. Each function loads what it changed; any error but a StylertError of one line fails."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stylert.core.errors import StylertError
from stylert.runtime import Generator
from stylert.runtime.media.recipes import COMMANDS, Recipe, read_recipe

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, 10**400, 0.5, float("nan"), float("inf")),
    *("", "../x", "\x1b[2J", "\ud800", [], [0], {}, {"a": 1}),
)


def mutate_json(text: str, rng: random.Random) -> bytes:
    """A JSON text with a value replaced, removed or nested, or with other bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(text.encode(), rng)
    root = parent = json.loads(text)
    key: Any = None
    while True:
        if not parent:
            break
        key = rng.choice(sorted(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
        if not isinstance(parent[key], (dict, list)) or not parent[key] or rng.random() < 0.3:
            break
        parent = parent[key]
    if not parent:
        return b"{}"
    how = rng.random()
    if how < 0.2:
        del parent[key]
    elif how < 0.3 and isinstance(parent, dict):
        parent[rng.choice(("", "../x", "\x1b[2J", "a" * 300))] = parent.pop(key)
    else:
        parent[key] = rng.choice(VALUES)
    return json.dumps(root).encode()


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """The bytes with some of them changed, removed, repeated or cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not data:
            break
        place = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 4096))
        how = rng.random()
        if how < 0.5:
            data[place] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif how < 0.7:
            data[place] ^= 1 << rng.randrange(8)
        elif how < 0.8:
            del data[place : place + rng.randrange(1, 9)]
        elif how < 0.9:
            data[place:place] = data[place : place + rng.randrange(1, 64)]
        else:
            del data[place:]
    return bytes(data)


def one_line(use: Callable[[], object]) -> None:
    try:
        use()
    except StylertError as e:
        assert str(e).isprintable(), str(e)
        assert len(str(e)) < 2000


def generate(folder: Path, backend: str = "onnxruntime") -> None:
    with Generator.load(folder, backend, threads=1) as g:
        g([0, 1])


def restored(file: Path, content: bytes, use: Callable[[], object]) -> None:
    """Check `use` with another content of a file, which gets its own content back."""
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        one_line(use)
    finally:
        file.write_bytes(before)


def manifest(folder: Path, rng: random.Random) -> None:
    file = folder / "bundle.json"
    restored(file, mutate_json(file.read_text(), rng), lambda: generate(folder))


def engine(folder: Path, rng: random.Random) -> None:
    (file,) = (folder / "engines").glob("onnxruntime-*/engine.json")
    restored(file, mutate_json(file.read_text(), rng), lambda: generate_on_engine(folder))


def generate_on_engine(folder: Path) -> None:
    with Generator.load(folder) as g:  # the engine was built without a number of threads
        g([0])


def recipe(folder: Path, rng: random.Random) -> None:
    command = rng.choice(sorted(COMMANDS))
    fields: dict[str, Any] = {
        "together": (1, 2), "columns": (3, 4), "levels": (0, 1), "frames": 10, "fps": 25, "loop": True, "space": "w",
        "latents": (1, 2), "toward": 3, "at": 0.5, "directions": "1" * 64, "moves": ("smile=-1,2", "pose@0-3=2"),
    }  # fmt: skip
    own = {name: fields[name] for name in COMMANDS[command]}
    text = Recipe(
        command=command, bundle="0" * 64, backend="openvino", precision="int8", seeds=(1,), psi=(0.5,), **own
    ).to_json()
    changed = mutate_json(text, rng)
    one_line(lambda: Recipe.from_json(changed.decode("utf-8", "replace")))
    picture = folder / "picture.png"
    chunk = b"stylert\0" + changed
    header = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR" + bytes(17)
    picture.write_bytes(mutate_bytes(header + len(chunk).to_bytes(4, "big") + b"tEXt" + chunk + bytes(4), rng))
    one_line(lambda: read_recipe(picture))


def network(backend: str) -> Callable[[Path, random.Random], None]:
    """Mutations of one of the two networks, with the sha256 that belongs to them, as a stranger would write it."""

    def mutate(folder: Path, rng: random.Random) -> None:
        manifest_file = folder / "bundle.json"
        content = json.loads(manifest_file.read_text())
        names = ["mapping.onnx", content["precisions"]["fp32"]["plans"].get(backend, "synthesis.fp32.onnx")]
        name = rng.choice(names)
        changed = mutate_bytes((folder / name).read_bytes(), rng)
        content["files"][name] = {"sha256": hashlib.sha256(changed).hexdigest(), "bytes": len(changed)}
        restored(
            manifest_file,
            json.dumps(content).encode(),
            lambda: restored(folder / name, changed, lambda: generate(folder, backend)),
        )

    return mutate


KINDS: dict[str, Callable[[Path, random.Random], None]] = {
    "manifest": manifest,
    "engine": engine,
    "recipe": recipe,
    "onnxruntime": network("onnxruntime"),
    "openvino": network("openvino"),
    "torch": network("torch"),
}
