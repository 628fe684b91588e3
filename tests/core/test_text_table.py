"""Columns of text tables are as wide as their widest cell."""

from stylert.core.text_table import aligned_columns


def test_cells_of_a_column_begin_at_the_same_place() -> None:
    assert aligned_columns([["layer", "ms"], ["b4", "12.5"], ["", "1"]]) == "layer  ms\nb4     12.5\n       1"
