"""Markdown tables."""

from collections.abc import Collection, Iterable, Sequence


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence], right: Collection[str] = ()
) -> str:
    """Format a Markdown table.

    Args:
        head: Column titles.
        rows: Cells of each row.
        right: Titles of right-aligned columns.

    Returns:
        Lines of text, without a newline at the end.
    """
    rule = "|".join("---:" if title in right else "---" for title in head)
    first, *rest = (f"| {' | '.join(map(str, row))} |" for row in (head, *rows))
    return "\n".join([first, f"|{rule}|", *rest])
