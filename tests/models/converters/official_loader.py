"""Stand-ins for the modules that an official pickle names, from the protocol of `torch_utils.persistence`.

The classes are empty: a module gets the state of the file. So the state must be complete, as it is for the real classes.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import nn

CLASSES = (
    "Generator", "SynthesisNetwork", "SynthesisBlock", "SynthesisLayer", "ToRGBLayer", "MappingNetwork", "FullyConnectedLayer",
    "Conv2dLayer", "Discriminator", "DiscriminatorBlock", "DiscriminatorEpilogue", "MinibatchStdLayer", "SynthesisInput",
)  # fmt: skip


def load_official(path: Path, networks: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Unpickle `path` where the classes lie in the module `networks`, such as "training.networks"."""
    persistence, training, classes = ModuleType("torch_utils.persistence"), ModuleType("training"), ModuleType(networks)
    for name in CLASSES:
        setattr(classes, name, type(name, (nn.Module,), {"__module__": networks}))

    def reconstruct(meta: dict[str, Any]) -> nn.Module:
        assert sorted(meta) == ["class_name", "module_src", "state", "type", "version"]
        assert (meta["type"], meta["version"]) == ("class", 6)
        source = ModuleType("source")
        exec(meta["module_src"], source.__dict__)
        module = source.__dict__[meta["class_name"]]
        obj = module.__new__(module)
        obj.__setstate__(meta["state"])
        assert isinstance(obj, nn.Module)
        return obj

    persistence._reconstruct_persistent_obj = reconstruct  # type: ignore[attr-defined]
    for name, module in {
        "torch_utils": ModuleType("torch_utils"), "torch_utils.persistence": persistence, "training": training, networks: classes,
    }.items():  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    with open(path, "rb") as file:
        content: dict[str, Any] = pickle.load(file)
    return content
