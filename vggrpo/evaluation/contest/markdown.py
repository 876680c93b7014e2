"""The report as Markdown, for a README."""

from collections.abc import Sequence

from vggrpo.evaluation.contest.tables import LEGEND, Sheet


def markdown(sheets: Sequence[Sheet], *, title: str, facts: Sequence[str], remarks: Sequence[str]) -> str:
    """A whole page: what was asked, every table that has rows, remarks."""
    parts = [f"# {title}", "\n".join(f"- {fact}" for fact in facts), LEGEND]
    parts += [f"## {sheet.title}\n\n{markdown_table(sheet)}" for sheet in sheets if sheet.rows]
    if remarks:
        parts.append("## Remarks\n\n" + "\n".join(f"- {remark}" for remark in remarks))
    return "\n\n".join(parts) + "\n"


def markdown_table(sheet: Sheet) -> str:
    """One table."""
    lines = [_line(sheet.columns), _line(["---"] * len(sheet.columns)), *(_line(row) for row in sheet.rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '∣') for cell in cells)} |"
