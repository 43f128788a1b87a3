"""`gateway diff`: what a change of the configuration means, for whoever has to approve it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli import store
from gateway.cli.options import ConfigOption, JsonOption, config_path

if TYPE_CHECKING:
    from gateway.config.document import Document
    from gateway.core.differences import Difference
    from gateway.core.quota import Rule, RuleState
    from gateway.ledger.redis import RedisLedger


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The file before the change.", show_default=False)],
    new: Annotated[
        Path | None,
        typer.Argument(metavar="[NEW]", help="The file after it. Default: that of --config", show_default=False),
    ] = None,
    *,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a change means: teams, keys, limits, prices, with what is used so far beside each limit.

    What is used comes from the store of the file in force: OLD or, where NEW is left out, that of --config. Without it
    the rest is told all the same. No secret is needed but the store's, and none is printed. Comments, order and
    spelling are no difference. An older version against the configuration as it is now: gateway diff older.yaml

    Exit 0: no difference. 1: there are some. 2: one of the files cannot be read or is wrong.

    Example: gateway diff config.yaml proposed.yaml
    """
    from gateway.config.compile import compile_settings
    from gateway.core.changes import differences, told

    before, after = _valid(old), _valid(config_path(new, config))
    # As if both stood in one place: a copy made for review is not another data_dir.
    earlier = compile_settings(replace(before, path=after.path), None)
    found = differences(earlier, compile_settings(after, None))
    in_force, other = (after, before) if new is None else (before, after)
    used, missing = _used(in_force, other, [each.rule for each in found if each.rule is not None])
    if as_json:
        rows = [_row(each, used.get(each.rule) if each.rule is not None else None) for each in found]
        typer.echo(json.dumps({"differences": rows, "used_unknown": missing or None}, indent=2))
    else:
        for line in told(found, used):
            typer.echo(line)
        typer.echo(f"{len(found)} difference{'' if len(found) == 1 else 's'}.")
        if missing:
            typer.echo(f"What is used so far is not known. {missing}", err=True)
    raise typer.Exit(1 if found else 0)


def _valid(path: Path) -> "Document":
    """The file, or an end that no script takes for a difference."""
    from gateway.config.file import load
    from gateway.config.problems import ConfigErrors

    try:
        return load(path)
    except ConfigErrors as errors:
        typer.echo(str(errors), err=True)
        raise typer.Exit(2) from errors


def _used(in_force: "Document", other: "Document", rules: "list[Rule]") -> "tuple[dict[Rule, RuleState], str]":
    """How the rules stand, and why that is not known where it is not."""
    if not rules:
        return {}, ""

    async def work(ledger: "RedisLedger") -> "list[RuleState]":
        await ledger.administration(probing=True).recall((), since=0)
        return await ledger.states(rules)

    # The folder of an embedded store is relative to the file in force, and either may be the copy.
    reason = ""
    for path in dict.fromkeys((in_force.path.absolute(), other.path.absolute())):
        try:
            return dict(zip(rules, store.reach(replace(in_force, path=path), work), strict=True)), ""
        except store.Unreachable as exc:
            reason = reason or str(exc)
    return {}, reason


def _row(each: "Difference", state: "RuleState | None") -> dict[str, object]:
    from gateway.core.refusals import number

    row: dict[str, object] = {name: getattr(each, name) for name in ("about", "field", "words", "before", "after")}
    row["rule"] = None if each.rule is None else each.rule.name
    row["used"] = None if state is None else number(state.rule.unit, state.used)
    return row | {"restart": each.restart}
