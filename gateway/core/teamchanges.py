"""What becomes of teams: renamed or removed, what they may use, their keys and their rules."""

from collections.abc import Iterator
from dataclasses import replace

from gateway.core.catalog import Key, Settings, Team
from gateway.core.differences import ALL, Difference, compared, listed, none_or
from gateway.core.refusals import local_time
from gateway.core.rulechanges import rule_differences


def team_differences(old: Settings, new: Settings) -> Iterator[Difference]:
    """Teams in the new version's order, then those that have gone."""
    renamed = _renamed(old, new)
    for id_, team in new.teams.items():
        before = old.teams.get(renamed.get(id_, id_))
        if before is None:
            yield Difference(id_, "team", f"new team, {_outline(team)}")
        elif id_ in renamed:
            words = f"team renamed, it was {before.id}: counters start at zero"
            yield Difference(id_, "team", words, before.id, id_)
        if before is not None:
            yield from _permissions(before, team, old, new)
        yield from _keys(before.id if before else None, id_, old, new)
        yield from rule_differences(id_, before.rules if before else (), team.rules, team)
    for id_, team in old.teams.items():
        if id_ not in new.teams and id_ not in renamed.values():
            yield Difference(id_, "team", "team removed: its keys are refused")
            yield from rule_differences(id_, team.rules, ())


def _renamed(old: Settings, new: Settings) -> dict[str, str]:
    """New ids of teams to their old ones: of a team that has come and one that has gone, with a key in common or
    alike in everything but the id.
    """
    left = {id_: team for id_, team in old.teams.items() if id_ not in new.teams}
    found: dict[str, str] = {}
    for digest, key in new.keys.items():
        before = old.keys.get(digest)
        if before is not None and before.team in left and key.team not in old.teams and key.team not in found:
            found[key.team] = left.pop(before.team).id
    for id_, team in new.teams.items():
        if id_ not in old.teams and id_ not in found and team.rules:
            twin = next((each.id for each in left.values() if _nameless(each) == _nameless(team)), None)
            if twin is not None:
                found[id_] = left.pop(twin).id
    return found


def _nameless(team: Team) -> Team:
    rules = tuple(replace(rule, scope="") for rule in team.rules)
    return replace(team, id="", rules=rules, planned=())


def _outline(team: Team) -> str:
    rules = f"plan {team.plan}" if team.plan else "no plan"
    return f"{rules}, may use {_allowed(team)}" + ("" if team.rules else ", unlimited")


def _allowed(team: Team) -> str:
    bounds = [
        f"{kind} {listed(values)}"
        for kind in ("models", "sizes", "qualities", "endpoints")
        if (values := getattr(team, kind)) is not None
    ]
    return "; ".join(bounds) or "everything"


def _permissions(before: Team, team: Team, old: Settings, new: Settings) -> Iterator[Difference]:
    yield from compared(team.id, [("plan", none_or(before.plan), none_or(team.plan))])
    # What a team has from the file as a whole is told once, there.
    if (before.zone, team.zone) != (old.zone, new.zone):
        yield from compared(team.id, [("timezone", before.zone, team.zone)])
    if (before.contact, team.contact) != (old.contact, new.contact):
        yield from compared(team.id, [("contact", before.contact, team.contact)])
    if before.suspended != team.suspended:
        words = f"suspended: {team.suspended}" if team.suspended else "no longer suspended"
        yield Difference(team.id, "suspended", words, before.suspended, team.suspended)
    yield from revocations(
        team.id, "tokens_revoked_before", before.tokens_revoked_before, team.tokens_revoked_before, team.zone
    )
    for kind in ("models", "sizes", "qualities", "endpoints"):
        earlier, now = getattr(before, kind), getattr(team, kind)
        if earlier != now:
            had, has = (ALL if values is None else listed(values) for values in (earlier, now))
            yield Difference(team.id, kind, f"may use {kind}: {had} -> {has}", had, has)


def revocations(
    about: str, name: str, before: float | None, after: float | None, zone: str = "UTC"
) -> Iterator[Difference]:
    """What becomes of a time before which tokens are void; before, after: unix seconds."""
    had, has = (None if moment is None else local_time(moment, zone) for moment in (before, after))
    if before != after:
        words = "no longer any time before which tokens are void" if has is None else f"tokens before {has} are void"
        yield Difference(about, name, words, had, has)


def _keys(before: str | None, team: str, old: Settings, new: Settings) -> Iterator[Difference]:
    """What happens to a team's keys. before: the team's id in `old`, None where it is new."""
    zone = new.teams[team].zone
    earlier = {digest: key for digest, key in old.keys.items() if key.team == before}
    now = {digest: key for digest, key in new.keys.items() if key.team == team}
    ids = {key.id for key in earlier.values()}
    for digest, key in now.items():
        end = _end(key, zone)
        if digest in earlier:
            name, last = earlier[digest].id, _end(earlier[digest], zone)
            if name != key.id:
                yield Difference(team, "key", f"key {name} is now named {key.id}", name, key.id)
            yield from compared(team, [(f"key {key.id} expires", last, end)])
            continue
        came = f", which opened team {old.keys[digest].team}" if digest in old.keys else ""
        words = f"key {key.id} {'replaced by another' if key.id in ids else 'added'}{came}, expires {end}"
        yield Difference(team, "key", words, after=key.id)
    replaced = {key.id for key in now.values()}
    for digest, key in earlier.items():
        if digest in new.keys and digest not in now:
            yield Difference(team, "key", f"key {key.id} opens team {new.keys[digest].team} from now on", key.id)
        elif digest not in now and key.id not in replaced:
            yield Difference(team, "key", f"key {key.id} revoked", key.id)


def _end(key: Key, zone: str) -> str:
    return "never" if key.expires is None else local_time(key.expires, zone)
