"""Certificate chains of every kind, right and wrong, for the tests of signatures."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

EMAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION
USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
DAY = datetime.timedelta(days=1)


@dataclass
class Chain:
    """A chain as PEM, the signer's key as PEM, and the certificates."""

    pem: bytes
    key: bytes
    certificates: list[x509.Certificate]


def key_pem(key: CertificateIssuerPrivateKeyTypes, password: bytes | None = None) -> bytes:
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def make_chain(
    key: CertificateIssuerPrivateKeyTypes | None = None,
    start: int = -1,
    end: int = 30,
    purposes: tuple[x509.ObjectIdentifier, ...] | None = (EMAIL,),
    usage: str | None = "digital_signature",
    is_authority: bool = False,
    name: str = "Ada",
    intermediate: bool = False,
) -> Chain:
    """A chain of an authority, perhaps an intermediate one, and a signer, valid from `start` to `end` in days from now."""
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = _certificate("Root", "Root", root_key, root_key, -10, 100, None, "key_cert_sign", True)
    issuers, issuer_key = [root], root_key
    if intermediate:
        issuer_key = ec.generate_private_key(ec.SECP256R1())
        issuers.insert(0, _certificate("Middle", "Root", issuer_key, root_key, -10, 100, None, "key_cert_sign", True))
    key = key or ec.generate_private_key(ec.SECP256R1())
    issuer_name = "Middle" if intermediate else "Root"
    signer = _certificate(name, issuer_name, key, issuer_key, start, end, purposes, usage, is_authority)
    return Chain(pem(signer, *issuers), key_pem(key), [signer, *issuers])


def self_signed() -> Chain:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate("Ada", "Ada", key, key, -1, 30, (EMAIL,), "digital_signature", False)
    return Chain(pem(certificate), key_pem(key), [certificate])


def _certificate(
    name: str,
    issuer: str,
    key: CertificateIssuerPrivateKeyTypes,
    issuer_key: CertificateIssuerPrivateKeyTypes,
    start: int,
    end: int,
    purposes: tuple[x509.ObjectIdentifier, ...] | None,
    usage: str | None,
    is_authority: bool,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start * DAY)
        .not_valid_after(now + end * DAY)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if usage is not None:
        builder = builder.add_extension(x509.KeyUsage(**{n: n == usage for n in USAGES}), critical=True)
    if purposes is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
    is_ed25519 = isinstance(issuer_key, ed25519.Ed25519PrivateKey)
    return builder.sign(issuer_key, None if is_ed25519 else hashes.SHA256())


def _name(name: str) -> x509.Name:
    parts = {NameOID.ORGANIZATION_NAME: "Example", NameOID.COMMON_NAME: name}
    return x509.Name([x509.NameAttribute(part, value) for part, value in parts.items()])
