"""Metrics by name: inputs are computed once, values name their network, and missing inputs are reported early."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylert.core.errors import DataError, InputError
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.networks import Generator
from stylert.train.metrics import evaluation_inputs
from stylert.train.metrics import evaluator as metrics
from stylert.train.metrics.distances import frechet_distance, kernel_distance
from stylert.train.metrics.evaluation_inputs import EvaluationInputs
from stylert.train.metrics.evaluator import Evaluator
from stylert.train.metrics.metric import METRICS, Metric


class Projections:
    """A cheap extractor: fixed projections of the pixels. It counts its images."""

    width = 6

    def __init__(self, name="EffNetLite0"):
        self.name = self.identity = name
        self.images_seen = 0

    def __call__(self, images):
        self.images_seen += len(images)
        x = images.reshape(len(images), -1).astype(float) / 255
        return x @ np.random.default_rng(len(self.name)).normal(size=(x.shape[1], self.width))

    def logits(self, features):
        return features


@pytest.fixture
def generator(seed):
    torch.manual_seed(seed)
    return Generator(GeneratorConfig(8, z_dim=4, w_dim=4, channel_base=32, channel_max=4, mapping_layers=1)).eval()


@pytest.fixture
def data(write_dataset, rng):
    """Forty images. Their first rows show the parts of two layers."""
    images = {f"{i:02d}.png": rng.integers(0, 256, (8, 8, 3), np.uint8) for i in range(40)}
    parts = {name: [i % 2, i % 3] for i, name in enumerate(images)}
    for name, (a, b) in parts.items():
        images[name][:4, :2], images[name][:4, 2:] = 255 * a, 120 * b
    return write_dataset(images | {"parts.json": json.dumps({"choices": parts}).encode()})


@pytest.fixture
def extractors(monkeypatch):
    """Cheap replacements of both networks, by name."""
    cheap = {"EffNetLite0": Projections(), "Inception": Projections("Inception")}
    monkeypatch.setattr(evaluation_inputs, "EffNetLite0", lambda: cheap["EffNetLite0"])
    monkeypatch.setattr(evaluation_inputs, "Inception", lambda weights: cheap["Inception"])
    return cheap


@given(st.sampled_from(METRICS), st.integers(10, 99_999), st.integers(10, 99), st.integers(10, 99_999))
def test_a_name_may_end_in_a_number_of_images(name, number, thousands, default):
    assert Metric.parse(name, default) == Metric(name, default)
    assert Metric.parse(f"{name}{number}", default) == Metric(name, number)
    assert Metric.parse(f"{name}{thousands}k", default) == Metric(name, thousands * 1000)


@pytest.mark.parametrize("text", ["fid50k_full", "fd9_full", "kid_full", "pr_full"])
def test_a_metric_that_compares_may_take_all_real_images(text):
    assert Metric.parse(text, 40).full
    assert not Metric.parse(text.removesuffix("_full"), 40).full


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fd-5k",
        "ppl",
        "ppl_x",
        "5k",
        "fid50K",
        "fid 50k",
        "FID",
        "fd5kk",
        "fd99999999",
        "fd0",
        "pr3",
        "is9",
        "is_full",
        "ppl_w_full",
    ],
)
def test_unknown_names_and_too_few_images_are_refused(text):
    with pytest.raises(InputError) as e:
        Metric.parse(text, 100)
    assert "\n" not in str(e.value)


def test_features_are_shared_and_each_metric_takes_its_number_of_images(generator, data, extractors, tmp_path):
    chosen = [Metric("fd", 30), Metric("kid", 20), Metric("pr", 20)]
    evaluator = Evaluator(chosen, EvaluationInputs(data, cache=tmp_path))
    values = evaluator.evaluate(generator)
    assert set(values) == {f"{n}-EffNetLite0" for n in ("FD", "KID", "precision", "recall")}
    extractor = extractors["EffNetLite0"]
    assert extractor.images_seen == 60
    real = extractor(evaluator.shared.dataset.images[:30].transpose(0, 2, 3, 1))
    fake = extractor(metrics.generated_images(generator, 0, 30, noise_mode="random"))
    # The batches differ from the evaluator's. Sums in another order may round a pixel differently.
    assert values["FD-EffNetLite0"] == pytest.approx(frechet_distance(fake, real), rel=1e-2, abs=1e-2)
    assert values["KID-EffNetLite0"] == pytest.approx(kernel_distance(fake[:20], real[:20]), rel=1e-2, abs=1e-2)
    images_seen = extractor.images_seen
    evaluator.evaluate(generator)
    assert extractor.images_seen == images_seen + 30  # real features are kept
    assert Evaluator([Metric("fd", 50)], EvaluationInputs(data)).evaluate(generator).keys() == {"FD-EffNetLite0"}
    assert evaluator.real_images == 30


class PerfectGenerator(torch.nn.Module):
    """Its images are those of the data: `picture_of` returns a random one with this label."""

    def __init__(self, picture_of):
        super().__init__()
        self.cfg = GeneratorConfig(8, z_dim=4, w_dim=4, c_dim=3, channel_base=32, channel_max=4, mapping_layers=1)
        self.position = torch.nn.Parameter(torch.zeros(1))
        self.picture_of = picture_of

    def forward(self, z, c, psi, noise_mode):
        seeds = (z[:, 0].abs() * 1e6).int().tolist()
        images = [self.picture_of(label, np.random.default_rng(seed)) for label, seed in zip(c.numpy(), seeds, strict=True)]
        return torch.from_numpy((np.stack(images).transpose(0, 3, 1, 2) - 127.9) / 127.5)


def picture(label, rng):
    """uint8 `[8, 8, 3]` of a label of three numbers."""
    mean = float(np.dot(label, [30.0, 120.0, 210.0]))
    return np.clip(mean + rng.normal(0, 8, (8, 8, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("vectors", [False, True])
def test_a_perfect_generator_of_unequal_classes_has_the_distance_of_other_real_images(vectors, rng, write_dataset, extractors):
    """The data are ordered by class, and each metric uses fewer images than there are."""
    classes = np.repeat([0, 1, 2], [1800, 180, 20])
    rows = np.array([[0.5, 0.5, 0], [0, 0.2, 0.8], [0.1, 0, 0.3]]) if vectors else np.eye(3)
    names = [f"{i:04d}.png" for i in range(len(classes))]
    images = {name: picture(rows[c], rng) for name, c in zip(names, classes, strict=True)}
    labels = [[name, rows[c].tolist() if vectors else int(c)] for name, c in zip(names, classes, strict=True)]
    data = write_dataset(images, labels)
    floor = write_dataset(
        {name: picture(rows[c], rng) for name, c in zip(names, rng.permutation(classes), strict=True)}, name="floor"
    )
    evaluator = Evaluator([Metric("fd", 1000), Metric("fd", 1000, full=True)], EvaluationInputs(data, floor=floor))
    generator = PerfectGenerator(picture)
    values, floors = evaluator.evaluate(generator), evaluator.floor()
    assert values.keys() == floors.keys() == {"FD-EffNetLite0", "FD-EffNetLite0_full"}
    # The share of the rare classes among 1,000 images has a standard error of a tenth of the share.
    with_all_classes_alike = metrics.generated_features(
        extractors["EffNetLite0"], generator, 1000, labels=rows.astype(np.float32), noise_mode="random"
    )
    everything = extractors["EffNetLite0"](evaluator.shared.dataset.images[:].transpose(0, 2, 3, 1))
    wrong = frechet_distance(with_all_classes_alike, everything)
    for name, value in values.items():
        assert value < wrong / 50, name
    assert max(floors.values()) < wrong / 50


def test_labels_of_another_width_are_refused_and_missing_classes_are_not(data, generator, rng, write_dataset, extractors):
    labelled = PerfectGenerator(picture)
    with pytest.raises(InputError, match="takes labels, which are drawn from those of the real images"):
        Evaluator([Metric("fd", 4)], EvaluationInputs(data)).evaluate(labelled)
    images = {f"{i}.png": picture(np.eye(3)[0], rng) for i in range(8)}
    vectors = write_dataset(images, [[name, [1, 0, 0, 2]] for name in images], name="vectors")
    with pytest.raises(InputError, match="labels of 3 numbers"):
        Evaluator([Metric("fd", 4)], EvaluationInputs(vectors)).evaluate(labelled)
    two = write_dataset(images, [[name, i % 2] for i, name in enumerate(images)], name="two")
    assert np.isfinite(Evaluator([Metric("fd", 4)], EvaluationInputs(two)).evaluate(labelled)["FD-EffNetLite0"])


def test_a_full_metric_compares_with_all_real_images(generator, data, extractors):
    chosen = [Metric("fd", 10), Metric("fd", 10, full=True), Metric("kid", 20, full=True)]
    evaluator = Evaluator(chosen, EvaluationInputs(data))
    values = evaluator.evaluate(generator)
    extractor = extractors["EffNetLite0"]
    assert evaluator.real_images == 40
    real = extractor(evaluator.shared.dataset.images.transpose(0, 2, 3, 1))
    fake = extractor(metrics.generated_images(generator, 0, 20, noise_mode="random"))
    assert values["FD-EffNetLite0"] == pytest.approx(frechet_distance(fake[:10], real[:10]), rel=1e-2, abs=1e-2)
    assert values["FD-EffNetLite0_full"] == pytest.approx(frechet_distance(fake[:10], real), rel=1e-2, abs=1e-2)
    assert values["KID-EffNetLite0_full"] == pytest.approx(kernel_distance(fake, real), rel=1e-2, abs=1e-2)


def test_the_names_of_values_say_which_noise_was_used(generator, data, extractors):
    for p in (p for name, p in generator.named_parameters() if name.endswith("noise_strength")):
        p.data.fill_(0.5)
    values = {}
    for mode in ("random", "const", "none"):
        values |= Evaluator([Metric("fd", 20)], EvaluationInputs(data, noise_mode=mode)).evaluate(generator)
    assert values.keys() == {"FD-EffNetLite0", "FD-EffNetLite0 (const noise)", "FD-EffNetLite0 (none noise)"}
    assert len(set(values.values())) == 3
    with pytest.raises(InputError, match="noise must be random, const, none"):
        Evaluator([Metric("fd", 20)], EvaluationInputs(data, noise_mode="some"))


def test_only_metrics_on_inception_have_the_published_names(generator, data, extractors, tmp_path):
    chosen = [Metric(name, 30) for name in ("fd", "fid", "kid", "pr", "is")]
    values = Evaluator(chosen, EvaluationInputs(data, inception=tmp_path / "w.pth")).evaluate(generator)
    names = {"FD-EffNetLite0", "FID", "KID", "precision-Inception", "recall-Inception", "IS", "IS-deviation"}
    assert set(values) == names
    assert extractors["Inception"].images_seen == extractors["EffNetLite0"].images_seen == 60


def test_missing_inputs_are_reported_before_anything_is_computed(data, write_dataset, rng, generator):
    for name, source, message in [
        ("fid", EvaluationInputs(data), "--inception; fd is the offline stand-in"),
        ("is", EvaluationInputs(data), "--inception"),
        ("fd", EvaluationInputs(), "--data"),
        ("modes", EvaluationInputs(), "--data"),
    ]:
        with pytest.raises(InputError, match=message):
            Evaluator([Metric(name, 20)], source)
    larger = Generator(GeneratorConfig(16, z_dim=4, w_dim=4, channel_base=32, channel_max=4, mapping_layers=1)).eval()
    with pytest.raises(InputError, match="at one size"):
        Evaluator([Metric("ls_w", 20)], EvaluationInputs(data)).evaluate(larger)
    plain = write_dataset({"a.png": rng.integers(0, 256, (8, 8, 3), np.uint8)}, name="plain")
    with pytest.raises(DataError, match=r"parts\.json is missing"):
        Evaluator([Metric("modes", 20)], EvaluationInputs(plain)).evaluate(generator)


def test_the_floor_has_the_values_between_real_images(generator, data, extractors):
    chosen = [Metric("fd", 20), Metric("modes", 20), Metric("ppl_w", 20)]
    floor = Evaluator(chosen, EvaluationInputs(data, floor=data)).floor()
    assert floor["FD-EffNetLite0"] == pytest.approx(0, abs=1e-6)
    assert "part frequencies, distance" in floor
    assert not any(name.startswith("PPL") for name in floor)
    assert Evaluator([Metric("fd", 20)], EvaluationInputs(data)).floor() == {}


def test_modes_and_separability_of_generated_images_are_within_their_ranges(generator, data):
    values = Evaluator([Metric("modes", 30), Metric("ls_z", 30), Metric("ls_w", 20)], EvaluationInputs(data)).evaluate(
        generator
    )
    assert 0 <= values["parts covered (of 5)"] <= 5
    assert 0 <= values["part frequencies, distance"] <= 1
    assert 0 < values["distinct combinations"] <= 6 / 30
    assert values["linear separability in z"] >= 1
    assert values["linear separability in w"] >= 1


def test_path_lengths_need_no_real_images(generator, extractors, monkeypatch):
    extractors["EffNetLite0"].maps = lambda x: x / 255
    names = ("ppl_z", "ppl_w", "ppl_w_end", "ppl_z_crop", "ppl_w_end_crop")
    values = Evaluator([Metric(name, 6) for name in names], EvaluationInputs()).evaluate(generator)
    assert set(values) == {f"PPL{name[3:]}-EffNetLite0" for name in names}
    assert all(v >= 0 for v in values.values())
    assert len(set(values.values())) == len(values)


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_images_that_are_neither_grey_nor_rgb_are_refused_in_one_line(data, channels, extractors):
    cfg = GeneratorConfig(8, z_dim=4, w_dim=4, channel_base=32, channel_max=4, mapping_layers=1, img_channels=channels)
    evaluator = Evaluator([Metric.parse("fd4", 4)], EvaluationInputs(data))
    with pytest.raises(InputError, match=f"grey or RGB images, and this network has {channels} channels"):
        evaluator.evaluate(Generator(cfg).eval())
