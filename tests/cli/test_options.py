"""The rules of all options: once each, finite numbers, and each value of a list once."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from stylert.cli import main as cli
from stylert.cli.app import OneBackend, app, split_list
from stylert.core.errors import InputError
from stylert.core.numerals import read_number
from stylert.runtime.backends import BACKENDS
from stylert.runtime.build_options import parse_batch_ranges
from stylert.runtime.bundle import Bundle
from stylert.runtime.serving import settings
from stylert.runtime.serving.ray_serve import deployment as ray
from stylert.runtime.serving.setting_ranges import SHARED_RANGES
from stylert.runtime.serving.triton import options as triton


def test_the_option_for_a_backend_names_all_of_them() -> None:
    (option,) = OneBackend.__metadata__
    assert option.help == f"{', '.join(BACKENDS)}, or auto: the fastest on this machine."


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """The words and the definition of every command."""
    for module in cli.COMMAND_MODULES:
        importlib.import_module(f"stylert.cli.{module}")

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if hasattr(command, "commands"):
            for name, child in command.commands.items():
                yield from walk(child, (*words, name))
        else:
            yield words, command

    yield from walk(get_command(app), ())


COMMANDS = dict(commands())
OPTIONS = [(words, p) for words, command in COMMANDS.items() for p in command.params if p.param_type_name == "option"]
REPEATED = [option for _, option in OPTIONS if option.multiple]
#: A value of each type that an option may have.
VALUES = {int: "64", float: "0.5", str: "x", Path: "x", list[str]: "x"}


def name(option: Any) -> str:
    return str(max(option.opts, key=len))


def kind(option: Any) -> Any:
    return option.type_descriptor.annotation


def word(option: Any) -> list[str]:
    """The option on the command line, with a value if it takes one."""
    return [name(option)] if option.is_flag else [name(option), VALUES[kind(option)]]


def run(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["stylert", *words])
    with pytest.raises(SystemExit) as e:
        cli.main()
    return int(e.value.code or 0), capsys.readouterr().err


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) > 15
    assert len(OPTIONS) > 100


def refusal(words: tuple[str, ...], arguments: list[str]) -> str:
    """The message that refuses the arguments of a command, before it runs."""
    with pytest.raises((InputError, typer.TyperException)) as e:
        COMMANDS[words].make_context(words[-1], arguments)
    return e.value.format_message() if isinstance(e.value, typer.TyperException) else str(e.value)


def test_an_option_that_is_given_twice_is_refused_by_name() -> None:
    for words, option in OPTIONS:
        if not option.multiple and not option.is_eager:
            assert f"{name(option)} is given 2 times" in refusal(words, [*word(option), *word(option)])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("export m --out b --precision fp32 --precision int8", "--precision is given 2 times"),
        ("bench b --layers --no-layers", "--layers is given 2 times"),
        ("serve b --port=1 --port 2 --port 3", "--port is given 3 times"),
        ("train --data d --out o --snap inf", "--snap takes a finite number"),
        ("generate b --seeds 0 --out o --psi nan", "--psi takes a finite number"),
        ("bench b --seconds 1e999", "--seconds takes a finite number"),
    ],
)
def test_the_command_ends_with_one_line_before_it_works(
    line: str, message: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, err = run(line.split(), monkeypatch, capsys)
    assert status == 2
    assert err.startswith(f"stylert: {message}")
    assert len(err.splitlines()) == 1
    assert list(nowhere.iterdir()) == []


def test_an_option_whose_help_says_so_may_be_repeated() -> None:
    assert {name(option) for option in REPEATED} == {"--set", "--direction", "--directions", "--point", "--box", "--photo"}
    assert all("May be repeated" in option.help for option in REPEATED)


@pytest.mark.parametrize("number", ["inf", "-inf", "nan", "1e999", "-Infinity"])
def test_a_number_that_is_not_finite_is_refused_by_name(number: str) -> None:
    for words, option in OPTIONS:
        if kind(option) in (int, float):
            needed = [w for other in COMMANDS[words].params if other.required and other is not option for w in required(other)]
            assert name(option) in refusal(words, [*needed, name(option), number])


def required(parameter: Any) -> list[str]:
    return word(parameter) if parameter.param_type_name == "option" else ["x"]


def test_each_value_of_a_list_counts_once() -> None:
    assert split_list("int8, fp32,int8 ,fp32") == ["int8", "fp32"]
    assert parse_batch_ranges("1:4:8,2,1:4:8,2:2:2") == ((1, 4, 8), (2, 2, 2))


def test_verify_prints_a_row_once_for_a_precision_that_is_named_twice(
    bundle: Bundle, nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lists = ["--precision", "int8,int8", "--backend", "onnxruntime,onnxruntime"]
    status, err = run(["verify", str(bundle.path), *lists, "--seeds", "1", "--json", "v.json"], monkeypatch, capsys)
    assert status == 0, err
    assert len(json.loads((nowhere / "v.json").read_text())["accuracy"]) == 1


def test_a_seed_that_is_named_twice_is_one_file(
    bundle: Bundle, nowhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, err = run(["generate", str(bundle.path), "--seeds", "1,0-1,1", "--out", "o"], monkeypatch, capsys)
    assert status == 0, err
    assert "generate: 2 done" in err
    assert sorted(file.name for file in (nowhere / "o").iterdir()) == ["seed0000.png", "seed0001.png"]


THREADED = [words for words, option in OPTIONS if name(option) == "--threads"]


@pytest.mark.parametrize("words", THREADED, ids=" ".join)
@pytest.mark.parametrize("count", ["0", "1024", "99999999999"])
def test_more_threads_than_the_cores_can_run_are_refused_by_name(
    words: tuple[str, ...], count: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stylert.core.machine.host.usable_cores", lambda: 2)
    status, err = run([*words, "--threads", count], monkeypatch, capsys)
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("stylert: --threads is a whole number from 1 to 8 (4 for each core that this process may use)")
    assert len(THREADED) > 6


def value_of(option: Any, text: str) -> list[str]:
    return [name(option), text]


WITH_VALUE = [(words, option) for words, option in OPTIONS if not option.is_flag]


@pytest.mark.parametrize(("words", "option"), WITH_VALUE, ids=lambda x: " ".join(x) if isinstance(x, tuple) else name(x))
def test_an_empty_value_is_refused_by_name(words: tuple[str, ...], option: Any) -> None:
    assert refusal(words, value_of(option, "")).startswith(f"{name(option)} is empty")


ARGUMENTS = [(words, p) for words, command in COMMANDS.items() for p in command.params if p.param_type_name == "argument"]


@pytest.mark.parametrize(("words", "argument"), ARGUMENTS, ids=lambda x: " ".join(x) if isinstance(x, tuple) else x.name)
def test_an_empty_argument_is_refused_by_name(words: tuple[str, ...], argument: Any) -> None:
    """Otherwise an empty path would be that of the working folder."""
    before = ["x" for _, other in ARGUMENTS[: ARGUMENTS.index((words, argument))] if other in COMMANDS[words].params]
    many = ["x"] if argument.nargs == -1 else []
    assert refusal(words, [*before, *many, ""]).startswith(f"{argument.name.upper()} is empty")


@pytest.mark.parametrize(
    ("words", "option"),
    [(words, option) for words, option in WITH_VALUE if kind(option) in (int, float)],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else name(x),
)
def test_what_only_python_takes_for_a_number_is_refused(words: tuple[str, ...], option: Any) -> None:
    for text in ("1_0", "\u0663"):
        assert refusal(words, value_of(option, text)).startswith(f"{name(option)} takes a number (got '{text}')")


@pytest.mark.parametrize("text", ["1", "-1.5", "+.5", "2.", "1e-3", "1E+5", " 7 "])
def test_numbers_as_text(text: str) -> None:
    assert read_number(text) == float(text)


@pytest.mark.parametrize("text", ["1_0", "\u0663", "", ".", "nan", "inf", "-Infinity", "0x10", "1 2", "e5", "1e", "9" * 500])
def test_other_text_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        read_number(text)


def test_help_in_a_pipe_has_whole_sentences() -> None:
    done = subprocess.run([sys.executable, "-m", "stylert.cli.main", "--help"], capture_output=True, text=True, check=True)
    assert "..." not in done.stdout.partition("Commands:")[2]
    assert "Build engines into the bundle" in done.stdout


@pytest.mark.parametrize(
    ("words", "ranges", "fields"),
    [
        (("serve",), settings.OWN_RANGES, {"max_delay": "max_delay_ms", "timeout": "request_seconds"}),
        (("deploy", "triton"), triton.OWN_RANGES, {"max_delay": "max_delay_ms"}),
        (
            ("deploy", "ray"),
            ray.OWN_RANGES,
            {"max_delay": "max_delay_ms", "timeout": "timeout_seconds", "stop": "stop_seconds"},
        ),
    ],
    ids=["serve", "triton", "ray"],
)
def test_an_option_of_a_server_has_the_range_of_its_setting(
    words: tuple[str, ...], ranges: dict[str, tuple[float, float]], fields: dict[str, str]
) -> None:
    known = SHARED_RANGES | ranges
    options = [option for option in COMMANDS[words].params if getattr(option, "min", None) is not None]
    assert {"max_batch", "max_delay"} < {option.name for option in options}
    for option in options:
        assert (option.min, option.max) == known[fields.get(option.name, option.name)], option.name
