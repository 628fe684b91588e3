"""The work that one file may cause: a number of opcodes, and memory in proportion to its size."""

from __future__ import annotations

from stylert.models.importers.errors import FormatError

#: A 1024 px checkpoint with G, D and G_ema has about a tenth of this.
MAX_OPCODES = 500_000
#: Bytes of arrays and strings per byte of the file: float16 becomes float32, and tensors that share a storage become
#: arrays of their own.
MAX_EXPANSION = 4
#: Bytes that a file of any size may need.
MIN_BYTES = 2**20
#: Bytes of texts, at most, whatever the size of the file: a file of holes takes no space on a disk. G, D and G_ema of 1024 px, which
#: protocol 2 writes as texts, have 0.9 GiB with their copies as bytes.
MAX_TEXTS = 2**30
#: Bytes of one text, at most. The pictures of CIFAR-100 are a text of 146 MiB.
MAX_TEXT = 2**28
#: Bytes of a text with characters beyond Latin-1, at most. Python keeps up to four bytes for each of its characters. Honest ones are
#: names and source code.
MAX_WIDE_TEXT, WIDE_CHARACTER = 2**24, 4


class Budget:
    """Opcodes and memory that remain to a file. The pickles nested in it share its budget.

    Every string, byte string and array is counted before it is made. Other objects need an opcode each.

    Args:
        file_bytes: Size of the file, without its holes.
        opcodes: Opcodes of all its pickles.
    """

    def __init__(self, file_bytes: int, opcodes: int = MAX_OPCODES) -> None:
        self.opcodes, self.bytes, self.texts = opcodes, MAX_EXPANSION * file_bytes + MIN_BYTES, MAX_TEXTS

    def spend_opcode(self) -> None:
        """Count one opcode. Raises FormatError where none remains."""
        if self.opcodes <= 0:
            raise FormatError(f"its pickles have more than {MAX_OPCODES} opcodes")
        self.opcodes -= 1

    def reserve(self, count: int) -> None:
        """Count `count` bytes. Raises FormatError where fewer remain."""
        if count > self.bytes:
            raise FormatError("it declares more texts and tensors than its bytes can hold")
        self.bytes -= count

    def reserve_text(self, size: int, is_wide: bool = False) -> None:
        """Count a text, or its copy as bytes.

        Args:
            size: Its bytes in the file.
            is_wide: Whether it has characters beyond Latin-1.

        Raises:
            FormatError: Fewer bytes remain than it will take in memory, or it is too long for its characters.
        """
        if is_wide and size > MAX_WIDE_TEXT:
            raise FormatError(f"its pickle holds a text of {size / 2**20:,.0f} MiB with characters beyond Latin-1")
        count = WIDE_CHARACTER * size if is_wide else size
        self.reserve(count)
        if count > self.texts:
            raise FormatError(f"its pickles hold more than {MAX_TEXTS / 2**20:,.0f} MiB of texts")
        self.texts -= count
