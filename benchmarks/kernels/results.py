"""Measurements of kernels as rows and result files of stylert's benchmarks.

A GPU machine often has PyTorch and Triton and little else, so this module does not need psutil.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stylert.benchmarks.machine.interference import instability_remarks
from stylert.benchmarks.machine.nvml import GpuWatch
from stylert.benchmarks.sample_statistics import describe
from stylert.benchmarks.schema import Results, Row, write_results
from stylert.core.roofline import PeakRates

#: The remark on every row of a dry run.
DRY_RUN = "dry run: tiny and on a CPU, its figures mean nothing"


def measured_row(
    work: dict[str, Any],
    form: str,
    metric: str,
    samples: Sequence[float],
    lower_bound: float,
    device: str,
    gpu: GpuWatch | None,
    **fields: Any,
) -> Row:
    """A row of the scenario `kernel`, from the samples of one process.

    Args:
        work: The work that was measured; rows with the same work are comparable.
        form: How it was computed.
        metric: `rate` for samples in images/s; any other metric is a time in ms.
        samples: At least one.
        lower_bound: The least time that the work can take, in the unit of the samples; for a rate, the highest rate.
        device: `cuda`, or `cpu` for a dry run.
        gpu: Readings of the GPU during the measurement.
        **fields: Further fields of `Row`.
    """
    distribution = describe([samples])
    remarks = instability_remarks(distribution, None) if device == "cuda" else [DRY_RUN]
    if gpu is not None and gpu.throttled:
        remarks.append(f"throttled: GPU, {', '.join(sorted(gpu.throttled))}")
    is_rate = metric == "rate"
    return Row(
        scenario="kernel",
        work=work,
        setup={"backend": "torch", "form": form},
        metric=metric,
        unit="images/s" if is_rate else "ms",
        better="higher" if is_rate else "lower",
        value=statistics.median(samples),
        rounds=[list(samples)],
        distribution=distribution,
        remarks=remarks,
        floor=lower_bound,
        **fields,
    )


def save_results(path: Path | None, title: str, command: str, rows: Sequence[Row], rates: PeakRates, **conditions: Any) -> None:
    """Write the rows measured so far to `path`; does nothing without a path.

    Args:
        path: The result file.
        title: Title of the document.
        command: Module of the command, below `stylert.benchmarks`.
        rows: The rows.
        rates: Peak rates behind the rows' lower bounds.
        **conditions: Further conditions of the run, JSON values.
    """
    if path is None:
        return
    words = ["python", "-m", f"stylert.benchmarks.{command}", *sys.argv[1:]]
    write_results(Results(title, list(rows), conditions=conditions, command=words, ceiling=asdict(rates)), path)
