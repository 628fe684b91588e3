"""Parquet files and Hugging Face `datasets` folders (Arrow streams or Parquet). Needs the `datasets` extra.

The column of pictures is the first that holds structures with `bytes`, as Hugging Face stores images, or else the first of
plain binary values; the label is the integer column called label, labels, fine_label or class, if there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stylert.core.errors import DataError, missing_extra
from stylert.train.data.sources.picture import Picture, Source, check_count, limited, one_line

LABEL_COLUMNS = ("label", "labels", "fine_label", "class")
ROWS = 64


def table_files(path: Path) -> list[Path]:
    """The files that make up a table at `path`, in order; none when it is of another kind."""
    if path.is_file():
        return [path] if path.suffix in (".parquet", ".arrow") else []
    arrows = sorted(path.rglob("*.arrow")) if list(path.rglob("state.json")) or list(path.rglob("dataset_info.json")) else []
    return arrows or sorted(path.rglob("*.parquet"))


def tables(path: Path, files: list[Path]) -> Source:
    """Every row of the files, one after another."""
    try:
        import pyarrow as pa
    except ImportError:
        raise missing_extra("pyarrow", "datasets") from None
    if path.is_dir() and len({f.parent for f in files}) > 1:
        places = ", ".join(sorted({str(f.parent.relative_to(path)) for f in files})[:4])
        raise DataError(f"{path} holds several tables ({places}): name one of them")
    opened = [_open(file) for file in files]
    image, label = _columns(path, opened[0][1])
    count = check_count(path, sum(rows for rows, _, _ in opened))

    def pictures() -> Iterator[Picture]:
        number = 0
        for file, (_, _, batches) in zip(files, opened, strict=True):
            try:
                for batch in batches([image] if label is None else [image, label]):
                    values = batch.column(image)
                    labels = None if label is None else batch.column(label)
                    for i in range(batch.num_rows):
                        value = None if labels is None else labels[i].as_py()
                        yield Picture(f"{file.name}[{number}]", _reader(values[i], f"{file.name}[{number}]"), value)
                        number += 1
            except (pa.ArrowException, OSError, KeyError) as e:
                raise DataError(f"{file} cannot be read: {one_line(e)}") from None

    return Source(count, pictures)


def _reader(value: Any, name: str) -> Callable[[], bytes]:
    def read() -> bytes:
        data = value["bytes"] if value.is_valid and hasattr(value, "keys") else value
        if not data.is_valid:
            raise DataError(f"{name!r} holds no bytes, only a path perhaps")
        buffer = data.as_buffer()
        limited(name, buffer.size)
        return bytes(buffer)

    return read


def _open(file: Path) -> tuple[int, Any, Callable[[list[str]], Iterator[Any]]]:
    """Rows, schema, and a function that iterates over record batches of some columns."""
    import pyarrow as pa
    import pyarrow.ipc
    import pyarrow.parquet

    try:
        if file.suffix == ".parquet":
            parquet = pyarrow.parquet.ParquetFile(file)
            return (
                parquet.metadata.num_rows,
                parquet.schema_arrow,
                lambda columns: parquet.iter_batches(ROWS, columns=columns),
            )

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

        return sum(b.num_rows for b in batches([])), reader().schema, batches
    except (pa.ArrowException, OSError) as e:
        raise DataError(f"{file} cannot be read: {one_line(e)}") from None


def _columns(path: Path, schema: Any) -> tuple[str, str | None]:
    import pyarrow as pa

    def is_bytes(kind: Any) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    structures = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    images = structures + [f.name for f in schema if is_bytes(f.type)]
    if not images:
        raise DataError(f"{path} has no column of encoded pictures among {', '.join(schema.names[:10])}")
    labels = [n for n in LABEL_COLUMNS if n in schema.names and pa.types.is_integer(schema.field(n).type)]
    return images[0], labels[0] if labels else None
