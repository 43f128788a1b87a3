"""Tables that commands print: aligned on a terminal, in a pipe lines of fields between tabs."""

import sys
from collections.abc import Sequence

import typer


def print_table(header: str, rows: Sequence[Sequence[str]], *, numbers: int = 0) -> None:
    """header: the columns' names between commas. In a pipe an empty line ends the table. No rows, no table.

    numbers: how many of the last columns stand to the right.
    """
    if not rows:
        return
    names = header.split(",")
    if not sys.stdout.isatty():
        typer.echo("\n".join(["\t".join(row) for row in (names, *rows)]) + "\n")
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i >= len(names) - numbers else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)
    typer.echo()
