"""Ground for every stage: errors, atomic files, this machine, cache folders, seeds, progress, statistics of measurements."""
