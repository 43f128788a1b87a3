"""What values must agree on with each other: everything that makes a file wrong though each value alone is right.

Every check is a generator of faults over the whole, possibly repaired, config; what `broken` says of a place it asks
before it believes it, so that one mistake is told once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from gateway.config.compile import PLACEHOLDER
from gateway.config.model import Config, JwtIssuerSection, ModelSection, TeamSection
from gateway.config.pem import misfit
from gateway.config.problems import Fault, Steps, listed, or_else, shown
from gateway.config.quotas import check_quotas

Broken = Callable[..., bool]

#: What an algorithm's key is, by the first two letters of its name. EdDSA's begin like no other's.
_FAMILY = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP", "HS": "oct"}

NODE_GIVES_UP = 300  #: seconds; the default headers timeout of undici, Node's HTTP client


def check(config: Config, broken: Broken) -> Iterator[Fault]:
    """Find every disagreement in the config. broken: whether a place was found wrong before."""
    yield from _listen(config)
    yield from _upstream(config)
    if not broken("store"):
        yield from _store(config)
    yield from _request_limits(config)
    for name, model in config.models.items():
        if not broken("models", name):
            yield from _model(model, ("models", name))
    yield from _default_model(config, broken)
    for id_, team in config.teams.items():
        yield from _team(config, broken, id_, team)
    yield from _hashes(config)
    yield from check_quotas(config, broken)
    for name, issuer in config.jwt_issuers.items():
        if not broken("jwt_issuers", name):
            yield from _jwt_issuer(issuer, ("jwt_issuers", name))
    yield from _same_issuer(config, broken)


def unknown(value: str, known: Iterable[str], kind: str, steps: Steps) -> Iterator[Fault]:
    """Tell a name that stands nowhere. kind: what it would be the name of."""
    known = list(known)
    if value not in known:
        yield Fault(steps, f"unknown {kind} {shown(value)}{or_else(value, known)}")


def repeated(values: Iterable[str]) -> Iterator[tuple[int, str]]:
    """List each value that stood before, with its index."""
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield index, value
        seen.add(value)


def _listen(config: Config) -> Iterator[Fault]:
    public, admin = config.listen.public, config.listen.admin
    if public == admin and public[1] != 0:
        yield Fault(("listen", "admin"), "the same address as listen.public; operators' pages need one of their own")


def _upstream(config: Config) -> Iterator[Fault]:
    upstream = config.upstream
    if upstream.total_timeout >= NODE_GIVES_UP:
        message = f"must be under {NODE_GIVES_UP}s: a Node client gives up there, and what it ordered is charged"
        yield Fault(("upstream", "total_timeout"), message)
    if upstream.connect_timeout >= upstream.total_timeout:
        yield Fault(("upstream", "connect_timeout"), "must be shorter than upstream.total_timeout")
    for index, name in repeated(account.name for account in upstream.accounts):
        yield Fault(("upstream", "accounts", index, "name"), f"a second account with the name {shown(name)}")


def _store(config: Config) -> Iterator[Fault]:
    store = config.store
    if store.kind in {"redis", "cluster"} and store.url is None:
        yield Fault(("store", "url"), f"missing; kind {store.kind} needs a url, as env:NAME or file:/path")
    if store.kind == "sentinel" and store.sentinel is None:
        yield Fault(("store", "sentinel"), "missing; kind sentinel needs {name: …, nodes: […]}")
    if store.kind == "embedded" and store.url is not None:
        yield Fault(("store", "url"), "kind embedded takes no url; did you mean kind: redis?", on_key=True)
    if store.kind != "sentinel" and store.sentinel is not None:
        yield Fault(
            ("store", "sentinel"), f"kind {store.kind} takes no sentinel; did you mean kind: sentinel?", on_key=True
        )


def _request_limits(config: Config) -> Iterator[Fault]:
    limits = config.request_limits
    if limits.body_idle_timeout > limits.body_total_timeout:
        yield Fault(
            ("request_limits", "body_idle_timeout"), "must not be longer than request_limits.body_total_timeout"
        )


def _model(model: ModelSection, at: Steps) -> Iterator[Fault]:
    if model.default_size not in model.sizes:
        message = f"{shown(model.default_size)} is not in sizes; expected {listed(model.sizes)}"
        yield Fault((*at, "default_size"), message)
    if model.default_quality not in model.qualities:
        message = f"{shown(model.default_quality)} is not in qualities; expected {listed(model.qualities)}"
        yield Fault((*at, "default_quality"), message)
    if "edits" in model.endpoints and model.edits.quality not in model.qualities:
        message = f"{shown(model.edits.quality)} is not in qualities; expected {listed(model.qualities)}"
        yield Fault((*at, "edits", "quality"), message)
    for quality, row in model.price_usd.items():
        for fault in unknown(quality, model.qualities, "quality of this model", (*at, "price_usd", quality)):
            yield Fault(fault.steps, fault.message, on_key=True)
        for size in row:
            for fault in unknown(size, model.sizes, "size of this model", (*at, "price_usd", quality, size)):
                yield Fault(fault.steps, fault.message, on_key=True)
    for index, name in enumerate(model.ignore):
        if name in model.parameters:
            # The default parameters are nobody's wish: an explicit ignore goes before them.
            yield Fault(
                (*at, "ignore", index), f"{shown(name)} stands in parameters too: it is let through or taken off"
            )


def _default_model(config: Config, broken: Broken) -> Iterator[Fault]:
    if broken("models") or broken("default_model"):
        return
    if config.default_model is not None:
        yield from unknown(config.default_model, config.models, "model", ("default_model",))
    elif len(config.models) > 1:
        yield Fault(("default_model",), f"missing; expected one of the models: {listed(config.models)}")


def _team(config: Config, broken: Broken, id_: str, team: TeamSection) -> Iterator[Fault]:
    at: Steps = ("teams", id_)
    if team.plan is not None and not broken(*at, "plan"):
        yield from unknown(team.plan, config.plans, "plan", (*at, "plan"))
    bound = team.plan is not None or bool(team.quotas) or broken(*at, "plan") or broken(*at, "quotas")
    if not bound and not team.unlimited and not broken(*at, "unlimited"):
        yield Fault(at, "has neither plan nor quotas; if that is meant, say unlimited: true", on_key=True)
    if team.unlimited and bound:
        yield Fault((*at, "unlimited"), "contradicts the team's plan or quotas; take one of them out")
    for index, key in repeated(key.id for key in team.keys):
        yield Fault((*at, "keys", index, "id"), f"a second key with the id {shown(key)} in this team")
    if not broken("models") and not broken(*at):
        yield from _permissions(config, team, at)


def _permissions(config: Config, team: TeamSection, at: Steps) -> Iterator[Fault]:
    """Check that what a team may use exists, and that something is left."""
    empty = [kind for kind in ("models", "sizes", "qualities", "endpoints") if getattr(team, kind) == ()]
    for kind in empty:
        yield Fault((*at, kind), "an empty list leaves the team nothing; leave it out to allow all, or use suspended")
    usable = {name: model for name, model in config.models.items() if team.models is None or name in team.models}
    for index, name in enumerate(team.models or ()):
        yield from unknown(name, config.models, "model", (*at, "models", index))
    if empty or not usable:
        return
    complete = True
    for kind, noun in (("sizes", "size"), ("qualities", "quality"), ("endpoints", "endpoint")):
        known = list(dict.fromkeys(value for model in usable.values() for value in getattr(model, kind)))
        for index, value in enumerate(getattr(team, kind) or ()):
            for fault in unknown(value, known, f"{noun} of the team's models", (*at, kind, index)):
                complete = False
                yield fault
    if complete and not any(_leaves(team, model) for model in usable.values()):
        yield Fault(at, "models, sizes, qualities and endpoints together leave the team nothing to order", on_key=True)


def _leaves(team: TeamSection, model: ModelSection) -> bool:
    """Whether the team may order anything of this model."""

    def both(offered: Iterable[str], allowed: tuple[str, ...] | None) -> set[str]:
        return set(offered) if allowed is None else set(offered) & set(allowed)

    endpoints = both(model.endpoints, team.endpoints)
    if not both(model.sizes, team.sizes):
        return False
    generates = "generations" in endpoints and bool(both(model.qualities, team.qualities))
    return generates or ("edits" in endpoints and bool(both((model.edits.quality,), team.qualities)))


def _hashes(config: Config) -> Iterator[Fault]:
    keys = [(id_, index, key) for id_, team in config.teams.items() for index, key in enumerate(team.keys)]
    count = Counter(key.sha256 for _, _, key in keys)
    first: dict[str, str] = {}
    for id_, index, key in keys:
        if count[key.sha256] > 1 and key.sha256 != PLACEHOLDER:
            if key.sha256 in first:
                message = f"the same key as {first[key.sha256]}; a key belongs to one team and has one id"
                yield Fault(("teams", id_, "keys", index, "sha256"), message)
            first.setdefault(key.sha256, f"{key.id} of team {id_}")


def _jwt_issuer(issuer: JwtIssuerSection, at: Steps) -> Iterator[Fault]:
    sources = [name for name in ("jwks_url", "jwks_file", "public_key", "secret") if getattr(issuer, name) is not None]
    if len(sources) != 1:
        got = " and ".join(sources) or "none"
        yield Fault(at, f"needs exactly one of jwks_url, jwks_file, public_key and secret, got {got}", on_key=True)
        return
    if issuer.revoked_keys and sources[0] in {"public_key", "secret"}:
        message = f"goes with jwks_url and jwks_file; a {sources[0]} is revoked by another in its place"
        yield Fault((*at, "revoked_keys"), message, on_key=True)
    faults = list(_algorithms(issuer, sources[0], at))
    yield from faults
    # A key that stands elsewhere is looked at where it is read.
    key = issuer.public_key
    if not faults and key and not key.startswith(("env:", "file:")) and (wrong := misfit(key, issuer.algorithms)):
        yield Fault((*at, "public_key"), wrong)


def _algorithms(issuer: JwtIssuerSection, source: str, at: Steps) -> Iterator[Fault]:
    shared, first = source == "secret", issuer.algorithms[0]
    for index, algorithm in enumerate(issuer.algorithms):
        # A public key taken for a shared secret would let everybody sign (RFC 8725, section 3.1).
        if algorithm.startswith("HS") != shared:
            expected = "HS256, HS384 or HS512" if shared else "RS, PS, ES or EdDSA"
            steps = (*at, "algorithms", index) if "algorithms" in issuer.model_fields_set else at
            yield Fault(steps, f"{algorithm} does not go with {source}; expected {expected}")
        elif _FAMILY[algorithm[:2]] != _FAMILY[first[:2]]:
            message = f"{algorithm} is of another family than {first}; an issuer signs with keys of one type"
            yield Fault((*at, "algorithms", index), message)


def _same_issuer(config: Config, broken: Broken) -> Iterator[Fault]:
    """A token says its issuer by iss alone, so that a second entry of one would never be asked."""
    first: dict[str, str] = {}
    for name, issuer in config.jwt_issuers.items():
        if broken("jwt_issuers", name):
            continue
        if issuer.issuer in first:
            message = f"the same iss as {first[issuer.issuer]!r}, whose keys alone would be asked; keep one of the two"
            yield Fault(("jwt_issuers", name, "issuer"), message)
        first.setdefault(issuer.issuer, name)
