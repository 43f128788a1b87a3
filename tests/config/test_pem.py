"""Which public key a PEM text is, held against the library that will verify with it."""

import base64
from collections.abc import Callable

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.pem import misfit, public_key_kind
from gateway.tokens import _FITTING

Format = serialization.PublicFormat

RSA_KEY = rsa.generate_private_key(65537, 2048)
CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


def pem_of(key: object, form: Format = Format.SubjectPublicKeyInfo) -> str:
    public: bytes = key.public_key().public_bytes(serialization.Encoding.PEM, form)  # type: ignore[attr-defined]
    return public.decode()


GOOD = {
    "RSA of 2048 bits": pem_of(RSA_KEY),
    "RSA of 3072 bits": pem_of(rsa.generate_private_key(65537, 3072)),
    "P-256": pem_of(ec.generate_private_key(CURVES["P-256"])),
    "P-384": pem_of(ec.generate_private_key(CURVES["P-384"])),
    "P-521": pem_of(ec.generate_private_key(CURVES["P-521"])),
    "Ed25519": pem_of(ed25519.Ed25519PrivateKey.generate()),
}


@pytest.mark.parametrize("name", GOOD)
def test_each_type_of_key_is_known_with_its_algorithms(name: str) -> None:
    """Its name says which it is, and its algorithms are those that the gateway verifies with such a key."""
    kind = public_key_kind(GOOD[name])
    type_, curve = ("RSA", None) if name.startswith("RSA") else ("OKP" if name == "Ed25519" else "EC", name)
    assert (kind.name, kind.algorithms) == (name, _FITTING[type_, curve])
    for algorithm in ("RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA"):
        assert (misfit(GOOD[name], [algorithm]) is None) == (algorithm in kind.algorithms)


def test_a_bare_rsa_key_is_known() -> None:
    """PKCS#1 is another form of the same key."""
    assert public_key_kind(pem_of(RSA_KEY, Format.PKCS1)) == public_key_kind(GOOD["RSA of 2048 bits"])


OTHERS: dict[str, Callable[[], object]] = {
    "DSA": lambda: dsa.generate_private_key(1024),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "Ed448": ed448.Ed448PrivateKey.generate,
    "X25519": x25519.X25519PrivateKey.generate,
    "RSA of 1024 bits": lambda: rsa.generate_private_key(65537, 1024),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_a_key_that_verifies_no_token_is_refused(make: Callable[[], object]) -> None:
    """Another type of key, or one that is too short, is a public key, and is told for what it is."""
    with pytest.raises(ValueError, match=r"not taken|1024 bits"):
        public_key_kind(pem_of(make()))


@given(st.sampled_from(sorted(GOOD)), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_key_is_refused_in_words_or_is_one(name: str, damage: list[tuple[float, int]]) -> None:
    """Whatever bytes are changed: a ValueError or a kind, and no key that the library can use is refused."""
    public = serialization.load_pem_public_key(GOOD[name].encode())
    der = bytearray(public.public_bytes(serialization.Encoding.DER, Format.SubjectPublicKeyInfo))
    for place, value in damage:
        der[min(int(place * len(der)), len(der) - 1)] = value
    text = pem_text(bytes(der))
    try:
        public_key_kind(text)
    except ValueError:
        assert not usable(text)


def usable(text: str) -> bool:
    """Whether the library that verifies loads it, as one of the keys that tokens may have."""
    try:
        key = serialization.load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        return False
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= 2048
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name in {"secp256r1", "secp384r1", "secp521r1"}
    return isinstance(key, ed25519.Ed25519PublicKey)


def pem_text(der: bytes) -> str:
    """As PEM."""
    lines = base64.encodebytes(der).decode()
    return f"-----BEGIN PUBLIC KEY-----\n{lines}-----END PUBLIC KEY-----\n"
