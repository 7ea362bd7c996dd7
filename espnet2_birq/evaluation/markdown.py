"""Tables in Markdown."""

from collections.abc import Collection, Iterable, Sequence


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence], right: Collection[str] = ()
) -> str:
    """Write a table in Markdown.

    Args:
        head: Titles of the columns.
        rows: Cells of each row, as many as titles.
        right: Titles of the columns that are aligned to the right.

    Returns:
        Lines of text, without a newline at the end.
    """
    rule = "|".join("---:" if title in right else "---" for title in head)
    first, *rest = (f"| {' | '.join(map(str, row))} |" for row in (head, *rows))
    return "\n".join([first, f"|{rule}|", *rest])
