"""`stylert bench`: measure a bundle or a standard model, compare results, draw a report of them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stylert.cli.app import Backends, JsonFile, Threads, app, positive, split_list
from stylert.cli.console import console, errors, progress
from stylert.core.atomic import check_writable
from stylert.core.errors import InputError


class MeasureByDefault(TyperGroup):
    """`stylert bench X` means `stylert bench run X` unless X is one of the group's commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["run", *args])


bench = typer.Typer(
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
        str | None, typer.Option(help="sg2-256, sg2-512, sg2-1024, comma-separated: config F, seeded random weights.")
    ] = None,
    backend: Backends = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Comma-separated; all in the bundle, or fp32,bf16,int8 of a model.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Comma-separated batch sizes.")] = "1,4",
    form: Annotated[
        str, typer.Option(help="stylert: what each backend runs best; portable: the file that all run.")
    ] = "stylert",
    scenario: Annotated[
        str, typer.Option(help="Comma-separated: single-stream, offline, server, cold-start, build.")
    ] = "single-stream,offline,cold-start",
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(help="Least time for each row, all rounds together.")] = 3.0,
    runs: Annotated[int, typer.Option(min=1, help="Least number of images for each row.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Processes that each row is measured in.")] = 5,
    p99: Annotated[float, typer.Option("--p99", help="Latency target of the server scenario, ms.")] = 500.0,
    server_requests: Annotated[int, typer.Option(min=1, help="Least number of requests at each rate of the server.")] = 100,
    seeds: Annotated[int, typer.Option(min=0, help="Images for the accuracy beside the speed; 0 for none.")] = 8,
    layers: Annotated[bool, typer.Option(help="Time per layer too.")] = True,
    ceilings: Annotated[bool, typer.Option(help="Measure the machine's own rates, for the share of the floor.")] = True,
    peers: Annotated[bool, typer.Option("--peers", help="The same network as people run it without stylert, too.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for results.json, report.html, plots and samples.")] = None,
    json: JsonFile = None,
) -> None:
    """Measure a bundle or a standard model; at least 3 s and 100 images per row, in five processes that take turns.

    `stylert bench compare a.json b.json` compares results, `stylert bench report results.json` draws their page.
    """
    from stylert.benchmarks.models import STANDARD_PRECISIONS, own_model, standard_model
    from stylert.benchmarks.peers.rows import PEER_ROUNDS, check_peers, with_peers
    from stylert.benchmarks.report.page import write_plots, write_report
    from stylert.benchmarks.scenarios.runner import Effort
    from stylert.benchmarks.schema import Results, write_results
    from stylert.benchmarks.suite import Matrix, configurations, run_suite
    from stylert.cli.bench.tables import show_results

    if (bundle is None) == (model is None):
        raise InputError("name a bundle, or a standard model with --model sg2-256")
    check_writable(json)
    if out is not None:
        check_writable(out / "results.json")
    precisions = split_list(precision) or (None if model is None else list(STANDARD_PRECISIONS))
    matrix = Matrix(
        split_list(backend),
        precisions,
        [positive(b, "--batch") for b in split_list(batch) or []],
        split_list(form) or [],
        threads,
        split_list(scenario) or [],
        ceilings,
        layers,
        seeds,
    )
    effort = Effort(seconds, runs, rounds, server_requests, p99)

    def save(results: Results) -> None:
        """Whatever ends a long run early, what it has measured until then is on disk."""
        for path in [*([json] if json else []), *([out / "results.json"] if out else [])]:
            write_results(results, path)

    with progress() as bar:
        if bundle is not None:
            models = [own_model(bundle)]
        else:
            models = [standard_model(name, precisions or STANDARD_PRECISIONS, bar) for name in split_list(model) or []]
        configurations(models, matrix)
        if peers:
            check_peers(models)
        results = run_suite(models, matrix, effort, out, bar, save)
    if peers:
        results = with_peers(
            results, models, threads, min(effort.rounds, PEER_ROUNDS), lambda line: errors.print(line, highlight=False)
        )
        save(results)
    document = results.document()
    show_results(document)
    if out is not None:
        write_plots(document, out)
        write_report(document, out / "report.html")
        console.print(f"wrote {out}/report.html, results.json", highlight=False, soft_wrap=True)


@bench.command("compare")
def compare(
    files: Annotated[
        list[Path], typer.Argument(help="results.json of two or more runs; the first is what others are held to.")
    ],
    html: Annotated[Path | None, typer.Option(help="Write the comparison as a page as well.")] = None,
) -> None:
    """Set results of the same work side by side, with ratios and whether they are more than chance."""
    from stylert.benchmarks.report.compare import compare_results
    from stylert.benchmarks.report.page import write_comparison
    from stylert.benchmarks.schema import read_results
    from stylert.cli.bench.tables import show_comparison

    check_writable(html)
    documents = [(str(f), read_results(f)) for f in files]
    comparisons = compare_results(documents)
    for comparison in comparisons:
        show_comparison(comparison)
    if html is not None:
        write_comparison(comparisons, documents, html)
        console.print(f"wrote {html}", highlight=False, soft_wrap=True)


@bench.command("report")
def draw(
    results: Annotated[Path, typer.Argument(help="results.json of a run; its samples are looked for beside it.")],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
) -> None:
    """Draw the report of results that were measured before, here or elsewhere."""
    from stylert.benchmarks.report.page import write_report
    from stylert.benchmarks.schema import read_results

    check_writable(out)
    write_report(read_results(results), out, results.parent)
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)
