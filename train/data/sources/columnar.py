"""Parquet files, and folders of Hugging Face `datasets` (Arrow or Parquet). Needs the `datasets` extra.

The pictures are the first column of structures with a field `bytes`, the form in which Hugging Face stores images.
Without such a column, they are the first column of binary values.
The label is the first integer column called label, labels, fine_label or class, if there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.core.errors import DataError
from stylert.core.images.pictures import one_line_message
from stylert.train.data.sources.messages import Message, picture_message
from stylert.train.data.sources.native import native_source
from stylert.train.data.sources.picture import Source

LABEL_COLUMNS = ("label", "labels", "fine_label", "class")
#: Rows of a Parquet file that are in memory at once: as many as have about this many bytes, and not more than this.
BATCH_BYTES, BATCH_ROWS = 16 * 2**20, 16


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
    arrow = _files(path, "*.arrow") if is_dataset else []
    return arrow or _files(path, "*.parquet")


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(file for file in folder.rglob(pattern) if file.is_file())


def tables(path: Path, files: list[Path]) -> Source:
    """Every row of the files, one file after another.

    Raises:
        DataError: A file is damaged, there is no column of pictures, or `path` holds several tables.
    """
    folders = sorted({str(f.parent.relative_to(path)) for f in files}) if path.is_dir() else []
    if len(folders) > 1:
        raise DataError(f"{path} holds several tables ({', '.join(folders[:4])}): name one of them")
    return native_source("pyarrow", path, files)


def read_tables(path: Path, files: list[Path]) -> tuple[int, Iterator[Message]]:
    """The number of rows, and a message for each. For the reading process alone.

    Raises:
        DataError: As `tables`. The iterator raises it too.
    """
    opened = [_open(file) for file in files]
    with _errors_of(path):  # names in a schema may be no text
        image_column, label_column = _columns(path, opened[0].schema)
    columns = [image_column] if label_column is None else [image_column, label_column]

    def pictures() -> Iterator[Message]:
        number = 0
        for table in opened:
            with _errors_of(table.file):
                for batch in table.batches(columns):
                    part = batch.select(columns)
                    part.validate(full=True)  # offsets that lie outside of the file
                    images = part.column(image_column)
                    labels = [None] * len(images) if label_column is None else part.column(label_column).to_pylist()
                    for image, label in zip(images, labels, strict=True):
                        yield picture_message(f"{table.file.name}[{number}]", _content(image), label)
                        number += 1

    return sum(table.rows for table in opened), pictures()


def _content(value: Any) -> memoryview | None:
    """The bytes of one value of the image column, or None."""
    if value.is_valid and hasattr(value, "keys"):
        value = value["bytes"]
    return memoryview(value.as_buffer()) if value.is_valid else None


@contextmanager
def _errors_of(file: Path) -> Iterator[None]:
    """Turn the errors of Arrow for a damaged file into DataError."""
    import pyarrow as pa

    try:
        yield
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError) as e:
        raise DataError(f"{file} cannot be read: {one_line_message(e)}") from None


def _open(file: Path) -> Table:
    with _errors_of(file):
        return _open_parquet(file) if file.suffix == ".parquet" else _open_arrow(file)


def _open_parquet(file: Path) -> Table:
    import pyarrow.parquet

    # Mapped into memory, so that a column of many pictures is not read as a whole.
    parquet = pyarrow.parquet.ParquetFile(file, memory_map=True, pre_buffer=False)
    rows = parquet.metadata.num_rows
    bytes_per_row = max(sum(_row_group_bytes(parquet)) // max(rows, 1), 1)
    batch_rows = min(max(BATCH_BYTES // bytes_per_row, 1), BATCH_ROWS)

    def batches(columns: list[str]) -> Iterator[Any]:
        iterator: Iterator[Any] = parquet.iter_batches(batch_rows, columns=columns, use_threads=False)
        return iterator

    return Table(file, rows, parquet.schema_arrow, batches)


def _row_group_bytes(parquet: Any) -> list[int]:
    """Unpacked bytes of each row group, as the file declares them."""
    return [parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups)]


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

    def batches(columns: list[str] | None = None) -> Iterator[Any]:
        opened = reader()
        if hasattr(opened, "num_record_batches"):
            return (opened.get_batch(i) for i in range(opened.num_record_batches))
        return iter(opened)

    return Table(file, sum(batch.num_rows for batch in batches()), reader().schema, batches)


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
