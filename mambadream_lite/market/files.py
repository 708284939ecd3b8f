"""Numbers out of csv files that a reader brings: fast when they are right, exact when not.

A fault is reported as one ``ValueError``: path, line (from 1), column, what was found and what
was expected. Nothing is dropped or repaired in silence (chapter 13).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

CHUNK = 100_000  # rows read at a time
BLOCK = 1 << 24  # bytes counted at a time
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,2})?\s*", re.ASCII)


def fault(path: Path, line: int, column: str, found: object, expected: str) -> ValueError:
    """The error that a bad row deserves, to be raised."""
    return ValueError(f"{path}, line {line}, column {column}: expected {expected}, found {found}")


def first_line(path: Path) -> str:
    """The first line of a text file, or a ``ValueError`` if there is none."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            line = file.readline().rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    if not line.strip():
        raise ValueError(f"{path}: is empty, expected rows of numbers")
    return line


def is_number(text: str) -> bool:
    """Whether a field reads as a finite number, to any program."""
    return NUMBER.fullmatch(text) is not None


def count(path: Path) -> tuple[int, int]:
    """Lines and commas of a file; the last line may lack its line feed."""
    lines, commas, last = 0, 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            lines, commas = lines + block.count(b"\n"), commas + block.count(b",")
            last = block[-1:]
    return lines + (last != b"\n"), commas


def number_chunks(
    path: Path, columns: dict[str, int], n_fields: int, skip: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """Read columns of numbers a chunk at a time.

    Args:
        path: a csv file without quotes.
        columns: name and position of each column wanted.
        n_fields: fields that every row must have.
        skip: lines before the first row.

    Yields:
        The line number of the first row of a chunk, and its values (rows, len(columns)) float64.

    Raises:
        ValueError: at the first row that has other than ``n_fields`` fields, or no number.
    """
    settings = {
        "header": None,
        "names": range(n_fields),
        "usecols": sorted({*columns.values(), n_fields - 1}),
        "dtype": {i: np.float64 for i in columns.values()},
        "skiprows": skip,
        "chunksize": CHUNK,
        "skip_blank_lines": False,
        "quoting": csv.QUOTE_NONE,
        "encoding_errors": "replace",
    }
    line = skip + 1
    try:
        lines, commas = count(path)
        if lines == skip:
            return
        if commas != lines * (n_fields - 1):  # pandas would pass over what is too much
            raise ValueError(f"{commas} commas in {lines} lines")
        with pd.read_csv(path, **settings) as reader:
            for chunk in reader:
                values = chunk[list(columns.values())].to_numpy(np.float64)
                # a row that is too short ends in nothing
                if not np.isfinite(values).all() or chunk.iloc[:, -1].isna().any():
                    raise ValueError("a field is missing or not finite")
                yield line, values
                line += len(values)
    except (ValueError, pd.errors.ParserError, OverflowError) as error:
        _locate(path, columns, n_fields, skip)
        raise ValueError(f"{path}: cannot be read as numbers: {error}") from error


def _locate(path: Path, columns: dict[str, int], n_fields: int, skip: int) -> None:
    """Walk the file line by line and raise at the first fault; slow, and run only on a fault."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="\n") as file:
        for number, text in enumerate(file, start=1):
            if number <= skip:
                continue
            fields = text.rstrip("\r\n").split(",")
            if len(fields) != n_fields:
                column = str(min(len(fields), n_fields))
                raise fault(path, number, column, f"{len(fields)} fields", f"{n_fields} fields")
            if not fields[-1].strip():
                raise fault(path, number, str(n_fields), "nothing", "a value")
            for name, position in columns.items():
                if not is_number(fields[position]):
                    raise fault(path, number, name, repr(fields[position][:40]), "a number")


def refuse(
    bad: np.ndarray, values: np.ndarray, path: Path, line: int, column: str, expected: str
) -> None:
    """Raise the fault of the first True of ``bad`` (rows,), whose row 0 is at ``line``."""
    if bad.any():
        row = int(bad.argmax())
        found = f"{values[row]:.0f}" if values[row] == round(values[row]) else f"{values[row]:.10g}"
        raise fault(path, line + row, column, found, expected)
