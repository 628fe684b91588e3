"""`stylert bench`: measure a bundle or a standard model, compare results, and make their report."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stylert.cli.app import Backends, CommandGroup, JsonFile, Threads, app, positive, split_list
from stylert.cli.console import print_line, print_note, progress
from stylert.core.errors import InputError, missing_extra
from stylert.core.files.outputs import check_output

#: Those of a run without `--scenario`.
DEFAULT_SCENARIOS = ("single-stream", "offline", "cold-start")


class MeasureByDefault(TyperGroup):
    """A group in which `stylert bench X` means `stylert bench run X`, unless X is a command of the group."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["run", *args])


bench = CommandGroup(
    cls=MeasureByDefault,
    help="Measure latency, throughput and memory, compare results: stylert bench --help, stylert bench compare --help.",
    no_args_is_help=False,
    rich_markup_mode=None,
)
app.add_typer(bench, name="bench")


@bench.command("run")
def run(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle folder, or --model for a standard one.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated, seeded random weights: sg2-256, sg2-512, sg2-1024 (config F), sg1-256, sg1-1024, sg3-t-256, "
            "sg3-r-256. With --url, a model of the server."
        ),
    ] = None,
    backend: Backends = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            help="Comma-separated; by default all in the bundle; of a model fp32,bf16,int8, of sg1 fp32,fp16,int8, of sg3 fp32,fp16.",
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Comma-separated batch sizes.")] = "1,4",
    form: Annotated[
        str, typer.Option(help="stylert: the graph form for each backend; portable: the file that every backend runs.")
    ] = "stylert",
    scenario: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: single-stream, offline, server, cold-start, build. By default single-stream, offline, "
            "cold-start, or the first three with --loadgen."
        ),
    ] = None,
    threads: Threads = None,
    seconds: Annotated[
        float | None, typer.Option(help="Least time for each row, all rounds together, by default 3. Of --loadgen, 60.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Least number of images for each row.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Number of processes in which each row is measured.")] = 5,
    p99: Annotated[float, typer.Option("--p99", help="Latency target of the server scenario, ms.")] = 500.0,
    server_requests: Annotated[int, typer.Option(min=1, help="Least number of requests at each rate of the server.")] = 100,
    seeds: Annotated[int, typer.Option(min=0, help="Images for the accuracy; 0 measures none.")] = 8,
    layers: Annotated[bool, typer.Option(help="Also measure the time of each layer.")] = True,
    ceilings: Annotated[bool, typer.Option(help="Measure the machine's peak rates, for the lower bound of each row.")] = True,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also measure the same network as people run it without stylert.")
    ] = False,
    loadgen: Annotated[
        bool, typer.Option("--loadgen", help="MLPerf's LoadGen puts the load on one backend and precision, and judges it.")
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="With --loadgen, a running server in place of a bundle, such as http://127.0.0.1:8000.")
    ] = None,
    server_qps: Annotated[
        float | None,
        typer.Option(
            help="With --loadgen, requests per second of the server scenario. By default the highest share of the "
            "offline rate that LoadGen finds valid."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results.json, report.html, plots and samples, or for LoadGen's logs.")
    ] = None,
    json: JsonFile = None,
) -> None:
    """Measure a bundle or a standard model: by default at least 3 s and 100 images per row, in five alternating processes.

    `stylert bench compare a.json b.json` compares results, `stylert bench report results.json` makes their page. With --loadgen,
    the exit code is 1 if LoadGen calls a test invalid.
    """
    from stylert.benchmarks.models import default_precisions, standard_model, user_model
    from stylert.benchmarks.peers.rows import PEER_ROUNDS, check_peers, with_peers
    from stylert.benchmarks.report.page import write_plots, write_report
    from stylert.benchmarks.report.plots import PLOT_NAMES
    from stylert.benchmarks.scenarios.runner import Effort
    from stylert.benchmarks.schema import Results, write_results
    from stylert.benchmarks.standard_networks import STYLEGAN2_NAMES, title_of
    from stylert.benchmarks.suite import Matrix, configurations, run_suite
    from stylert.cli.bench.tables import show_results
    from stylert.runtime.media.pictures import check_own_picture

    batches = list(dict.fromkeys(positive(b, "--batch") for b in split_list(batch) or []))
    if loadgen:
        from stylert.cli.bench.loadgen import judge

        load = {"seconds": seconds, "min_queries": runs, "p99_ms": p99, "server_qps": server_qps}
        systems = {"backends": split_list(backend), "precisions": split_list(precision), "threads": threads, "batches": batches}
        if not judge(bundle, model, url, systems, split_list(scenario), load, out, json):
            raise typer.Exit(1)
        return
    if url is not None or server_qps is not None:
        raise InputError("--url and --server-qps are for --loadgen")
    if find_spec("psutil") is None:
        raise missing_extra("psutil", "bench")
    if (bundle is None) == (model is None):
        raise InputError("name a bundle, or a standard model with --model sg2-256")
    check_output(json, "JSON")
    if out is not None:
        check_output(out / "results.json", "JSON")
        check_output(out / "report.html", "HTML")
        for name in PLOT_NAMES:
            check_own_picture(out / f"{name}.png")
    names = split_list(model) or []
    others = [name for name in names if name not in STYLEGAN2_NAMES]
    if peers and others:
        raise InputError(f"peers are measured for StyleGAN2 alone, and {others[0]} is {title_of(others[0])}")
    precisions = split_list(precision) or (list(default_precisions(names)) if names else None)
    matrix = Matrix(
        split_list(backend),
        precisions,
        batches,
        split_list(form) or [],
        threads,
        split_list(scenario) or list(DEFAULT_SCENARIOS),
        ceilings,
        layers,
        seeds,
    )
    effort = Effort(3.0 if seconds is None else seconds, runs, rounds, server_requests, p99)

    def save(results: Results) -> None:
        """Write the rows that are measured so far. A long run that is interrupted keeps them."""
        for path in [*([json] if json else []), *([out / "results.json"] if out else [])]:
            write_results(results, path)

    with progress() as report:
        if bundle is not None:
            models = [user_model(bundle)]
        else:
            models = [standard_model(name, precisions or default_precisions([name]), report) for name in names]
        configurations(models, matrix)
        if peers:
            check_peers(models)
        results = run_suite(models, matrix, effort, out, report, save)
    if peers:
        results = with_peers(results, models, threads, min(effort.rounds, PEER_ROUNDS), lambda line: print_note(line))
        save(results)
    document = results.document()
    show_results(document)
    if out is not None:
        write_plots(document, out)
        write_report(document, out / "report.html")
        print_line(f"wrote {out}/report.html, results.json")


@bench.command("compare")
def compare(
    files: Annotated[
        list[Path], typer.Argument(help="results.json of two or more runs; the others are compared with the first.")
    ],
    html: Annotated[Path | None, typer.Option(help="Also write the comparison as a page.")] = None,
) -> None:
    """Compare results of the same work: ratios, and whether they exceed chance."""
    from stylert.benchmarks.report.comparison import compare_results
    from stylert.benchmarks.report.page import write_comparison
    from stylert.benchmarks.schema import read_results
    from stylert.cli.bench.tables import show_comparison

    check_output(html, "HTML", files)
    documents = [(str(f), read_results(f)) for f in files]
    comparisons = compare_results(documents)
    for comparison in comparisons:
        show_comparison(comparison)
    if html is not None:
        write_comparison(comparisons, documents, html)
        print_line(f"wrote {html}")


@bench.command("report")
def draw(
    results: Annotated[Path, typer.Argument(help="results.json of a run, with its sample pictures in the same folder.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
) -> None:
    """Make the report of results that were measured before, on any machine."""
    from stylert.benchmarks.report.page import write_report
    from stylert.benchmarks.schema import read_results

    check_output(out, "HTML", (results,))
    write_report(read_results(results), out, results.parent)
    print_line(f"wrote {out}")
