"""What a Parquet file of others may ask of its reader: every page header is checked before a page is decoded.

A page's header claims its decoded size, and run lengths or a dictionary turn a few bytes into any number of values;
pyarrow makes memory for what they claim. Format: https://parquet.apache.org/docs/file-format, whose page headers are
structs of Thrift's compact protocol.
"""

from collections.abc import Collection
from typing import Any, Final

MAX_PAGE: Final = 64 << 20  # bytes decoded: usual pages have 1 MiB
MAX_TABLE: Final = 2 << 30  # bytes decoded: a shard's observations at one level have some MiB
_STRUCT, _STOP = 12, 0
_DICTIONARY = 2  # type of a page


def check_pages(data: memoryview, metadata: Any, columns: Collection[str] | None = None) -> None:
    """Check what reading these columns (None: all) would decode.

    Args:
        data: the whole file.
        metadata: its footer (``pyarrow.parquet.FileMetaData``).
        columns: names of the columns that are read.

    Raises:
        ValueError: a page lies outside the file, or would decode to more than allowed.
    """
    total = 0
    data = data.cast("B")  # of a pyarrow buffer, bytes are signed
    for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
        for column in (group.column(index) for index in range(group.num_columns)):
            if columns is not None and column.path_in_schema not in columns:
                continue
            begins = [column.data_page_offset]
            if column.has_dictionary_page:
                begins.append(column.dictionary_page_offset)
            start, end = min(begins), min(begins) + column.total_compressed_size
            if not 0 <= start <= end <= len(data):
                raise ValueError("a column lies outside the file")
            width, decoded = _decoded(data[:end], start)
            # Of a text column, each value may be as long as the dictionary.
            value = width if column.physical_type.endswith("BYTE_ARRAY") else 8
            total += max(decoded, group.num_rows * value)
    if total > MAX_TABLE:
        raise ValueError(f"it would decode to {total:,} bytes; at most {MAX_TABLE:,} are read")


def _decoded(data: memoryview, position: int) -> tuple[int, int]:
    """Decoded bytes of the dictionary, and of all pages, of the column from ``position`` to the end of ``data``."""
    dictionary, total = 0, 0
    while position < len(data):
        reader = _Compact(data, position)
        header = reader.struct()
        kind, decoded, stored = (header.get(field) for field in (1, 2, 3))
        if not isinstance(decoded, int) or not isinstance(stored, int) or decoded < 0 or stored < 0:
            raise ValueError("a page header without sizes")
        if decoded > MAX_PAGE:
            raise ValueError(f"a page would decode to {decoded:,} bytes; at most {MAX_PAGE:,} are read")
        position = reader.position + stored
        if position > len(data):
            raise ValueError("a page lies outside its column")
        total += decoded
        dictionary = max(dictionary, decoded) if kind == _DICTIONARY else dictionary
    return dictionary, total


class _Compact:
    """Reads structs of Thrift's compact protocol; ValueError where the data is none."""

    def __init__(self, data: memoryview, position: int) -> None:
        self.data, self.position = data, position

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Fields by their number: integers, or None for those of another type."""
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != _STOP:
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> int | None:
        if depth > 8:
            raise ValueError("a page header that is nested too deeply")
        if kind in (1, 2):  # true, false: no bytes
            return None
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 3:
            self._skip(1)
        elif kind == 7:
            self._skip(8)
        elif kind == 8:
            self._skip(self._varint())
        elif kind in (9, 10):
            head = self._byte()
            count, of = head >> 4 if head >> 4 < 15 else self._varint(), head & 15
            for _ in range(min(count, len(self.data))):
                self._skip(1) if of in (1, 2) else self._value(of, depth + 1)
        elif kind == _STRUCT:
            self.struct(depth + 1)
        else:  # maps do not occur in page headers
            raise ValueError("a page header of an unknown form")
        return None

    def _byte(self) -> int:
        self._skip(1)
        return self.data[self.position - 1]

    def _skip(self, count: int) -> None:
        self.position += count
        if self.position > len(self.data):
            raise ValueError("a page header that ends early")

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a page header with an overlong number")

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
