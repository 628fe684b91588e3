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


class Budget:
    """Opcodes and memory that remain to a file. The pickles nested in it share its budget.

    Every string, byte string and array is counted before it is made. Other objects need an opcode each.

    Args:
        file_bytes: Size of the file.
        opcodes: Opcodes of all its pickles.
    """

    def __init__(self, file_bytes: int, opcodes: int = MAX_OPCODES) -> None:
        self.opcodes, self.bytes = opcodes, MAX_EXPANSION * file_bytes + MIN_BYTES

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
