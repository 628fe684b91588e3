"""A run from imported networks has the values of a transfer, unless the user gives others."""

from stylert.models.importers.import_checkpoint import ImportedCheckpoint
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.train.imported_start import imported_run_config


def test_a_run_from_imported_networks_keeps_their_average_and_augments_soon(tmp_path):
    generator, discriminator = GeneratorConfig(8), DiscriminatorConfig(8)
    imported = ImportedCheckpoint("official", generator, {}, (), {}, {}, discriminator, {})
    cfg = imported_run_config(tmp_path, imported, "auto")
    assert (cfg.ada_kimg, cfg.ema_rampup) == (100.0, None)
    cfg = imported_run_config(tmp_path, imported, "auto", ada_kimg=700.0, ema_rampup=0.1)
    assert (cfg.ada_kimg, cfg.ema_rampup) == (700.0, 0.1)
