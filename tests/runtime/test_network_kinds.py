"""A bundle whose manifest names another kind of network than its files hold is refused, whatever else the manifest says."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from stylert.core.errors import BundleError
from stylert.export.pipeline import export_bundle
from stylert.models.checkpoint import write_generator
from stylert.models.network_kinds import NETWORK_KINDS as CONFIGURATIONS
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import backend
from stylert.runtime.engines import build_engine
from stylert.runtime.network_kinds import NETWORK_KINDS
from tests.models.stylegan3.tiny import randomized, tiny_config

#: The fields of the manifest's model that the runtime reads.
NEEDED = ("resolution", "z_dim", "c_dim", "w_dim", "img_channels")
BACKENDS = [name for name in ("onnxruntime", "openvino") if backend(name).available()]


@pytest.fixture(scope="module")
def stylegan3(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with as many latents as StyleGAN2 has at this resolution."""
    folder = tmp_path_factory.mktemp("stylegan3")
    network = randomized(tiny_config(channel_base=512, channel_max=16), 1)
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    write_generator(folder / "sg3.safetensors", network.cfg, tensors)
    bundle = export_bundle(folder / "sg3.safetensors", folder / "bundle")
    assert NETWORK_KINDS["stylegan2"].takes_latents(bundle.num_ws, bundle.resolution)
    return bundle


def relabelled(bundle: Bundle, folder: Path, network: str, fields: tuple[str, ...]) -> Path:
    """A copy whose model has these fields alone, and the name of this network."""
    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest["model"] = {name: bundle.model[name] for name in fields} | {"network": network}
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("network", ["stylegan2", "stylegan3"])
def test_a_relabelled_bundle_is_refused_by_its_manifest(
    network: str, bundle: Bundle, stylegan3: Bundle, tmp_path: Path
) -> None:
    original = stylegan3 if network == "stylegan2" else bundle
    copy = relabelled(original, tmp_path / "copy", network, tuple(set(original.model) - {"network"}))
    with pytest.raises(BundleError, match=r"bundle.json names a StyleGAN. network, and has \w+ of a StyleGAN. network"):
        Bundle.load(copy)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("network", ["stylegan2", "stylegan3"])
def test_a_relabelled_bundle_is_refused_by_its_networks_too(
    network: str, name: str, bundle: Bundle, stylegan3: Bundle, tmp_path: Path
) -> None:
    copy = relabelled(stylegan3 if network == "stylegan2" else bundle, tmp_path / "copy", network, NEEDED)
    words = "has" if network == "stylegan2" else "lacks"
    for precision in Bundle.load(copy).precisions:
        for use in (Generator.load, lambda *arguments: build_engine(Bundle.load(copy), *arguments[1:])):
            with pytest.raises(BundleError, match=f"is not the StyleGAN. network that its bundle describes: it {words}"):
                use(copy, name, precision)


def test_a_bundle_that_names_no_network_is_one_of_stylegan2(bundle: Bundle, tmp_path: Path) -> None:
    copy = relabelled(bundle, tmp_path / "copy", "stylegan2", NEEDED)
    manifest = json.loads((copy / "bundle.json").read_text())
    del manifest["model"]["network"]
    (copy / "bundle.json").write_text(json.dumps(manifest))
    with Generator.load(copy) as generator:
        assert len(generator([0])) == 1


def test_the_fields_by_which_kinds_are_told_apart_are_those_of_the_configurations() -> None:
    assert set(NETWORK_KINDS) == set(CONFIGURATIONS)
    names = {network: {f.name for f in dataclasses.fields(kind.config)} for network, kind in CONFIGURATIONS.items()}
    for network, kind in NETWORK_KINDS.items():
        others = set().union(*(fields for other, fields in names.items() if other != network))
        assert kind.fields == names[network] - others
