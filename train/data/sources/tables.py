"""Parquet files, and folders of Hugging Face `datasets` (Arrow or Parquet). Needs the `datasets` extra.

The pictures are the first column of structures with a field `bytes`, the form in which Hugging Face stores images.
Without such a column, they are the first column of binary values.
The label is the first integer column called label, labels, fine_label or class, if there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.core.errors import DataError, missing_extra
from stylert.train.data.sources.picture import Picture, Source, check_count, check_size, one_line_message

LABEL_COLUMNS = ("label", "labels", "fine_label", "class")
#: Rows of a Parquet file that are in memory at once.
ROWS = 64


@dataclass(frozen=True)
class Table:
    """One file of a table.

    Attributes:
        file: Its path.
        rows: Number of rows.
        schema: Its Arrow schema.
        batches: Iterates over the record batches of some columns.
    """

    file: Path
    rows: int
    schema: Any
    batches: Callable[[list[str]], Iterator[Any]]


def table_files(path: Path) -> list[Path]:
    """The files of a table at `path`, in order. Empty if `path` is no table."""
    if path.is_file():
        return [path] if path.suffix in (".parquet", ".arrow") else []
    is_dataset = any(path.rglob("state.json")) or any(path.rglob("dataset_info.json"))
    arrow = sorted(path.rglob("*.arrow")) if is_dataset else []
    return arrow or sorted(path.rglob("*.parquet"))


def tables(path: Path, files: list[Path]) -> Source:
    """Every row of the files, one file after another.

    Raises:
        DataError: A file is damaged, there is no column of pictures, or `path` holds several tables.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise missing_extra("pyarrow", "datasets") from None
    folders = sorted({str(f.parent.relative_to(path)) for f in files}) if path.is_dir() else []
    if len(folders) > 1:
        raise DataError(f"{path} holds several tables ({', '.join(folders[:4])}): name one of them")
    opened = [_open(file) for file in files]
    image_column, label_column = _columns(path, opened[0].schema)
    columns = [image_column] if label_column is None else [image_column, label_column]
    count = sum(table.rows for table in opened)
    check_count(path, count)

    def pictures() -> Iterator[Picture]:
        number = 0
        for table in opened:
            try:
                for batch in table.batches(columns):
                    images = batch.column(image_column)
                    labels = None if label_column is None else batch.column(label_column)
                    for i in range(batch.num_rows):
                        name = f"{table.file.name}[{number}]"
                        yield Picture(name, _reader(images[i], name), None if labels is None else labels[i].as_py())
                        number += 1
            except (pa.ArrowException, OSError, KeyError) as e:
                raise DataError(f"{table.file} cannot be read: {one_line_message(e)}") from None

    return Source(count, pictures)


def _reader(value: Any, name: str) -> Callable[[], bytes]:
    """Reads the bytes of one value of the image column."""

    def read() -> bytes:
        is_structure = value.is_valid and hasattr(value, "keys")
        data = value["bytes"] if is_structure else value
        if not data.is_valid:
            raise DataError(f"{name!r} holds no bytes, only a path perhaps")
        buffer = data.as_buffer()
        check_size(name, buffer.size)
        return bytes(buffer)

    return read


def _open(file: Path) -> Table:
    import pyarrow as pa

    try:
        return _open_parquet(file) if file.suffix == ".parquet" else _open_arrow(file)
    except (pa.ArrowException, OSError) as e:
        raise DataError(f"{file} cannot be read: {one_line_message(e)}") from None


def _open_parquet(file: Path) -> Table:
    import pyarrow.parquet

    parquet = pyarrow.parquet.ParquetFile(file)

    def batches(columns: list[str]) -> Iterator[Any]:
        rows: Iterator[Any] = parquet.iter_batches(ROWS, columns=columns)
        return rows

    return Table(file, parquet.metadata.num_rows, parquet.schema_arrow, batches)


def _open_arrow(file: Path) -> Table:
    """An Arrow stream, or else an Arrow file."""
    import pyarrow as pa
    import pyarrow.ipc

    def reader() -> Any:
        source = pa.memory_map(str(file))
        try:
            return pyarrow.ipc.open_stream(source)
        except pa.ArrowInvalid:
            return pyarrow.ipc.open_file(source)

    def batches(columns: list[str]) -> Iterator[Any]:
        opened = reader()
        if hasattr(opened, "num_record_batches"):
            return (opened.get_batch(i) for i in range(opened.num_record_batches))
        return iter(opened)

    return Table(file, sum(batch.num_rows for batch in batches([])), reader().schema, batches)


def _columns(path: Path, schema: Any) -> tuple[str, str | None]:
    """The columns of pictures and of labels."""
    import pyarrow as pa

    def is_binary(kind: Any) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    structures = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    images = structures + [f.name for f in schema if is_binary(f.type)]
    if not images:
        raise DataError(f"{path} has no column of encoded pictures among {', '.join(schema.names[:10])}")
    labels = [n for n in LABEL_COLUMNS if n in schema.names and pa.types.is_integer(schema.field(n).type)]
    return images[0], labels[0] if labels else None
