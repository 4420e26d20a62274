"""Tables for people, in Markdown."""

from collections.abc import Collection, Iterable, Iterator, Sequence


def markdown_lines(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, text: Collection[str] = ()
) -> Iterator[str]:
    """Yields the lines of a table, each as soon as its row is there.

    Args:
        header: titles of the columns.
        rows: a cell for each column.
        text: titles of the columns that are text, to the left, as the first column is; all others are numbers, to the right.
    """
    yield _line(header)
    yield _line(["---" if number == 0 or title in text else "---:" for number, title in enumerate(header)])
    yield from map(_line, rows)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, text: Collection[str] = ()) -> str:
    """Returns a table; the arguments are those of `markdown_lines`."""
    return "\n".join(markdown_lines(header, rows, text=text))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
