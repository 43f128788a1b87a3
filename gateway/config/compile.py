"""From a checked document to `Settings`: plans merged, names derived, dates made seconds, secrets read."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config.model import Config, JwtIssuerSection, ModelSection
from gateway.config.pem import misfit
from gateway.config.problems import ConfigErrors, Fault, Steps, looks_secret
from gateway.config.rules import organization_rules, plan_rules, team_rules
from gateway.config.values import SecretRef, end_of, unix_seconds
from gateway.core.catalog import (
    Account,
    Idempotency,
    JwtIssuer,
    Key,
    Listen,
    Model,
    RequestLimits,
    Settings,
    Store,
    Team,
    Upstream,
)
from gateway.core.quota import Rule
from gateway.core.secret import Secret

if TYPE_CHECKING:
    from gateway.config.document import Document

PLACEHOLDER = "0" * 64  #: stands in the example where a key's hash belongs; nobody can hold such a key

_LARGEST_SECRET = 64 * 1024  #: bytes; a key, a URL or a PEM text is far smaller


class _Secrets:
    """Reads secrets and collects what is missing. With no environment each one stands for its own reference."""

    def __init__(self, environ: Mapping[str, str] | None) -> None:
        self._environ = environ
        self.faults: list[Fault] = []

    def read(self, ref: SecretRef, *steps: str | int) -> Secret:
        """Read a secret of one line; a closing newline is the editor's and is taken off."""
        value = self.read_text(ref, *steps)
        if not value.isprintable():
            # A line break within a header would end it and begin another.
            self.faults.append(Fault(steps, "the secret holds a line break or another control character"))
        return Secret(value)

    def read_text(self, ref: SecretRef, *steps: str | int) -> str:
        if self._environ is None:
            return f"env:{ref.variable}" if ref.variable is not None else f"file:{ref.file}"
        if ref.variable is not None:
            value = self._environ.get(ref.variable, "")
            name = "named here" if looks_secret(ref.variable) and not ref.variable.isupper() else ref.variable
            state = "empty" if ref.variable in self._environ else "not set"
            problem = f"the environment variable {name} is {state}"
        else:
            value, problem = _file_text(Path(str(ref.file)))
        if not value.strip():
            self.faults.append(Fault(steps, problem))
        return value.strip()

    def read_optional(self, ref: SecretRef | None, *steps: str | int) -> Secret | None:
        return None if ref is None else self.read(ref, *steps)

    def read_public_key(self, section: JwtIssuerSection, *steps: str | int) -> str | None:
        """Take PEM text as it stands, or from where ``env:`` or ``file:`` points."""
        text = section.public_key
        if text is None or not text.startswith(("env:", "file:")):
            return text
        kind, _, place = text.partition(":")
        ref = SecretRef(variable=place) if kind == "env" else SecretRef(file=place)
        found = self.read_text(ref, *steps)
        if self._environ is not None and found:
            try:
                wrong = misfit(found, section.algorithms)
            except ValueError as exc:
                wrong = str(exc)
            if wrong:
                self.faults.append(Fault(steps, wrong))
        return found

    def read_shared(self, section: JwtIssuerSection, *steps: str | int) -> Secret | None:
        """Read what an issuer signs with: at least as long as the hash of each of its algorithms (RFC 7518, 3.2)."""
        found = self.read_optional(section.secret, *steps)
        algorithm = max(section.algorithms, key=lambda name: name[2:])
        least = int(algorithm[2:]) // 8 if algorithm.startswith("HS") else 0
        if self._environ is not None and found is not None and 0 < len(found.reveal().encode()) < least:
            self.faults.append(Fault(steps, f"the secret is shorter than the {least} bytes that {algorithm} needs"))
        return found

    def read_store_url(self, ref: SecretRef | None, *steps: str | int) -> Secret | None:
        found = self.read_optional(ref, *steps)
        text = found.reveal() if found is not None and self._environ is not None else ""
        if text and not text.startswith(("redis://", "rediss://", "unix://")):
            self.faults.append(Fault(steps, "expected a URL that begins with redis://, rediss:// or unix://"))
        return found


def _file_text(path: Path) -> tuple[str, str]:
    """Return a secret file's text, empty if it cannot be had, and the sentence for that case."""
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_SECRET).decode(), f"the file {path} is empty"
    except OSError as exc:
        return "", f"the file {path} cannot be read: {(exc.strerror or 'unknown reason').lower()}"
    except UnicodeDecodeError:
        return "", f"the file {path} is not UTF-8 text"


def compile_settings(document: "Document", environ: Mapping[str, str] | None) -> Settings:
    """Compile a checked document. Raises `ConfigErrors` with every secret that cannot be had.

    environ: where ``env:`` looks; None puts ``env:NAME`` or ``file:/path`` in each secret's place, for commands that
    only look at the rules.
    """
    config, secrets = document.config, _Secrets(environ)
    folder = document.path.absolute().parent
    settings = Settings(
        hash=document.hash,
        zone=config.timezone,
        contact=config.contact,
        listen=_listen(config, secrets),
        upstream=_upstream(config, secrets),
        store=_store(config, secrets, folder),
        limits=RequestLimits(**dict(config.request_limits)),
        default_model=default_model(config),
        models=compile_models(config),
        teams={
            id_: compile_team(config, id_, team_rules(config, id_), plan_rules(config, id_)) for id_ in config.teams
        },
        keys=_keys(config),
        organization=organization_rules(config),
        jwt_issuers=_jwt_issuers(config, secrets, folder),
        idempotency=Idempotency(**dict(config.idempotency)),
    )
    if secrets.faults:
        raise ConfigErrors(map(document.places.problem, secrets.faults))
    return settings


def compile_store(document: "Document", environ: Mapping[str, str]) -> Store:
    """The store alone with its secrets, for commands that need no others. Raises `ConfigErrors`."""
    secrets = _Secrets(environ)
    store = _store(document.config, secrets, document.path.absolute().parent)
    if secrets.faults:
        raise ConfigErrors(map(document.places.problem, secrets.faults))
    return store


def compile_issuer(document: "Document", name: str, environ: Mapping[str, str]) -> JwtIssuer:
    """One issuer with its secret, as for the store. Raises `ConfigErrors`."""
    secrets = _Secrets(environ)
    config = document.config.model_copy(update={"jwt_issuers": {name: document.config.jwt_issuers[name]}})
    (issuer,) = _jwt_issuers(config, secrets, document.path.absolute().parent)
    if secrets.faults:
        raise ConfigErrors(map(document.places.problem, secrets.faults))
    return issuer


def default_model(config: Config) -> str:
    """Return the model of a request that names none: the one named so, else the only one."""
    return config.default_model or next(iter(config.models))


def compile_models(config: Config) -> dict[str, Model]:
    return {alias: _model(alias, section) for alias, section in config.models.items()}


def _model(alias: str, section: ModelSection) -> Model:
    return Model(
        alias=alias,
        upstream_name=section.upstream_name or alias,
        endpoints=frozenset(section.endpoints),
        sizes=section.sizes,
        qualities=section.qualities,
        default_size=section.default_size,
        default_quality=section.default_quality,
        max_n=section.max_n,
        edit_quality=section.edits.quality,
        edit_max_images=section.edits.max_images,
        prices={(quality, size): usd for quality, row in section.price_usd.items() for size, usd in row.items()},
        parameters=dict(section.parameters),
        ignore=frozenset(section.ignore),
    )


def compile_team(config: Config, id_: str, rules: tuple[Rule, ...], planned: tuple[Rule, ...] = ()) -> Team:
    """Compile what a team may use, with the rules it is given. planned: those of its plan alone."""

    def allowed(values: tuple[str, ...] | None) -> frozenset[str] | None:
        return None if values is None else frozenset(values)

    section = config.teams[id_]
    return Team(
        id=id_,
        zone=section.timezone or config.timezone,
        contact=section.contact or config.contact,
        suspended=section.suspended,
        models=allowed(section.models),
        sizes=allowed(section.sizes),
        qualities=allowed(section.qualities),
        endpoints=allowed(section.endpoints),
        rules=rules,
        plan=section.plan,
        planned=planned,
        tokens_revoked_before=_seconds(section.tokens_revoked_before),
    )


def _seconds(instant: datetime | None) -> float | None:
    """Unix seconds."""
    return None if instant is None else unix_seconds(instant)


def _keys(config: Config) -> dict[bytes, Key]:
    """Return all keys by digest, without placeholders."""
    keys = {}
    for id_, team in config.teams.items():
        zone = team.timezone or config.timezone
        for key in team.keys:
            if key.sha256 != PLACEHOLDER:
                digest = bytes.fromhex(key.sha256)
                expires = None if key.expires is None else end_of(key.expires, zone)
                keys[digest] = Key(team=id_, id=key.id, digest=digest, expires=expires)
    return keys


def _listen(config: Config, secrets: _Secrets) -> Listen:
    section = config.listen
    return Listen(
        public=section.public,
        admin=section.admin,
        admin_token=secrets.read_optional(section.admin_token, "listen", "admin_token"),
        trusted_proxies=section.trusted_proxies,
        workers=section.workers,
    )


def _upstream(config: Config, secrets: _Secrets) -> Upstream:
    section = config.upstream
    accounts = tuple(
        Account(
            name=account.name,
            api_key=secrets.read(account.api_key, "upstream", "accounts", index, "api_key"),
            max_concurrent=account.max_concurrent,
        )
        for index, account in enumerate(section.accounts)
    )
    return Upstream(
        base_url=section.base_url,
        accounts=accounts,
        connect_timeout=section.connect_timeout,
        total_timeout=section.total_timeout,
        edit_framing=section.edit_framing,
    )


def _store(config: Config, secrets: _Secrets, folder: Path) -> Store:
    section = config.store
    return Store(
        kind=section.kind,
        url=secrets.read_store_url(section.url, "store", "url"),
        sentinel_name=section.sentinel.name if section.sentinel else None,
        sentinel_nodes=section.sentinel.nodes if section.sentinel else (),
        data_dir=str(folder / section.data_dir),
        namespace=section.namespace,
        when_down=section.when_down,
    )


def _jwt_issuers(config: Config, secrets: _Secrets, folder: Path) -> tuple[JwtIssuer, ...]:
    return tuple(
        JwtIssuer(
            name=name,
            issuer=section.issuer,
            audience=section.audience,
            algorithms=section.algorithms,
            team_claim=section.team_claim,
            jwks_url=section.jwks_url,
            jwks_file=None if section.jwks_file is None else str(folder / section.jwks_file),
            public_key=secrets.read_public_key(section, "jwt_issuers", name, "public_key"),
            secret=secrets.read_shared(section, "jwt_issuers", name, "secret"),
            revoked_keys=frozenset(section.revoked_keys),
            revoked_tokens=frozenset(section.revoked_tokens),
            revoked_before=_seconds(section.revoked_before),
        )
        for name, section in config.jwt_issuers.items()
    )


def secret_files(config: Config) -> list[tuple[Steps, Path]]:
    """List the files that hold secrets, with the places that name them."""
    found: list[tuple[Steps, SecretRef | None]] = [
        (("listen", "admin_token"), config.listen.admin_token),
        (("store", "url"), config.store.url),
        *((("upstream", "accounts", i, "api_key"), a.api_key) for i, a in enumerate(config.upstream.accounts)),
        *((("jwt_issuers", name, "secret"), issuer.secret) for name, issuer in config.jwt_issuers.items()),
    ]
    return [(steps, Path(ref.file)) for steps, ref in found if ref is not None and ref.file is not None]
