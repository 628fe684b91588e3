"""Certificates that sign C2PA manifests: a chain for trying, and the checks of a user's chain and key.

The rules are those of the certificate profile in the C2PA specification 2.2, section 14.5.1. The certificate of the signer is no
authority, and not signed by itself. Its key usage is digitalSignature, and its extended key usage is one of `PURPOSES`.

This module needs the extra `provenance`. So it is imported where it is used.
"""

from __future__ import annotations

import datetime
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from stylert.core.errors import InputError, StylertError, missing_extra, shown_line
from stylert.core.provenance.credentials import CLAIM_SIGNING, EMAIL_PROTECTION, PURPOSES, TEST_ORGANIZATION

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
    from cryptography.utils import CryptographyDeprecationWarning
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    raise missing_extra("cryptography", "provenance") from None

TEST_NAME = "unnamed user of stylert"
TEST_DAYS = 365
#: The chain is valid from so long ago, so that a clock that is behind finds it valid, too.
CLOCK_SKEW = datetime.timedelta(hours=1)

# Remarks of the library on a strange certificate are not for the terminal of a command.
warnings.filterwarnings("ignore", category=CryptographyDeprecationWarning, module=r"stylert\.core\.provenance", append=True)

ANY_PURPOSE = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE.dotted_string
#: Signature algorithm of C2PA for each elliptic curve.
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
MIN_RSA_BITS = 2048
MAX_CERTIFICATES = 10

Extension = TypeVar("Extension", bound=x509.ExtensionType)


@dataclass(frozen=True)
class CheckedChain:
    """The facts of a certificate chain and key that fit each other.

    Attributes:
        algorithm: Name of the signature algorithm in C2PA, such as `es256`.
        signer: Name and organization of the signer.
        not_after: Time at which the first certificate of the chain expires.
        is_test: Whether `stylert provenance init` made the chain.
    """

    algorithm: str
    signer: str
    not_after: datetime.datetime
    is_test: bool


def make_test_chain() -> tuple[bytes, bytes]:
    """Make a P-256 key, a certificate for it, and the authority that signs the certificate.

    The key of the authority is forgotten, so nobody can issue another certificate with it.

    Returns:
        The certificates, that of the signer first, and the signer's key, all as PEM.
    """
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    purposes = [x509.ObjectIdentifier(purpose) for purpose in (CLAIM_SIGNING, EMAIL_PROTECTION)]
    authority_name = _test_name(f"authority of one {TEST_NAME}")
    authority = (
        _certificate(authority_name, authority_name, authority_key, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    signer = (
        _certificate(_test_name(TEST_NAME), authority_name, key, authority_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    certificates = signer.public_bytes(Encoding.PEM) + authority.public_bytes(Encoding.PEM)
    return certificates, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def check_chain(certificates: bytes, key: bytes) -> CheckedChain:
    """Check that a chain and key can sign manifests now.

    Args:
        certificates: PEM: the certificate of the signer, then that of its issuer, and so on. The root may be left out.
        key: PEM of the signer's private key, without a password.

    Raises:
        InputError: One of them cannot be read, they do not fit each other, a certificate is not valid now, or it is not one for
            signing manifests.
    """
    with damage_is_told():
        chain, private_key = read_certificates(certificates), read_key(key)
        signer = chain[0]
        if signer.public_key() != private_key.public_key():
            raise InputError(f"the key is not that of the first certificate, {name_of(signer)}")
        algorithm = _algorithm(private_key)
        check_issuers(chain)
        now = datetime.datetime.now(datetime.UTC)
        for certificate in chain:
            check_dates(certificate, now)
        check_usage(signer)
        not_after = min(certificate.not_valid_after_utc for certificate in chain)
        is_test = _name_part(signer, NameOID.ORGANIZATION_NAME) == TEST_ORGANIZATION
        return CheckedChain(algorithm, name_of(signer), not_after, is_test)


@contextmanager
def damage_is_told() -> Iterator[None]:
    """Turn what the library raises for a damaged part of a certificate into InputError. It reads each part only when asked."""
    try:
        yield
    except (StylertError, MemoryError):
        raise
    except Exception as e:  # the library has a class for each kind of damage
        raise InputError(f"a certificate is damaged: {shown_line(str(e))}") from None


def read_certificates(data: bytes, limit: int | None = MAX_CERTIFICATES) -> list[x509.Certificate]:
    """The certificates in a PEM file, in order. Raises InputError if there is none, one cannot be read, or there are too many."""
    try:
        chain = x509.load_pem_x509_certificates(data)
    except ValueError:
        raise InputError("the certificates are no PEM file, which begins with -----BEGIN CERTIFICATE-----") from None
    if limit is not None and len(chain) > limit:
        raise InputError(f"a chain has at most {limit} certificates, not {len(chain)}")
    return chain


def certificates_text(data: bytes, limit: int | None = MAX_CERTIFICATES) -> str:
    """The certificates of a PEM file without text around them, as `openssl x509 -text` writes. Raises as `read_certificates`."""
    return "".join(c.public_bytes(Encoding.PEM).decode() for c in read_certificates(data, limit))


def read_key(data: bytes) -> PrivateKeyTypes:
    """The private key in a PEM file of the form PKCS#8, which C2PA's library takes. Raises InputError if it cannot be read."""
    if re.search(rb"^-----BEGIN (EC|RSA) PRIVATE KEY-----", data, re.MULTILINE) and b"ENCRYPTED" not in data:
        raise InputError(
            "the key is in the old form of openssl; write it in PKCS#8: openssl pkcs8 -topk8 -nocrypt -in KEY -out KEY.pem"
        )
    try:
        return load_pem_private_key(data, None)
    except TypeError:
        raise InputError("the key has a password; write one without: openssl pkey -in KEY -out KEY.pem") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InputError("the key is no PEM file of a private key, which begins with -----BEGIN PRIVATE KEY-----") from None


def check_issuers(chain: list[x509.Certificate]) -> None:
    """Raise InputError unless each certificate is signed by the next one."""
    for certificate, issuer in pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            raise InputError(
                f"the certificates are no chain: {name_of(certificate)} is not signed by the next one, {name_of(issuer)}"
            ) from None


def check_dates(certificate: x509.Certificate, now: datetime.datetime) -> None:
    """Raise InputError unless the certificate is valid at the time `now`."""
    if now > certificate.not_valid_after_utc:
        raise InputError(f"the certificate of {name_of(certificate)} expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
    if now < certificate.not_valid_before_utc:
        start = certificate.not_valid_before_utc
        raise InputError(f"the certificate of {name_of(certificate)} is not valid before {start:%Y-%m-%d %H:%M} UTC")


def name_of(certificate: x509.Certificate) -> str:
    """Name and organization of a certificate's owner, for people."""
    name, organization = (_name_part(certificate, part) for part in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME))
    parts = [name or "", f"({organization})" if organization else ""]
    return shown_line(" ".join(part for part in parts if part) or "an owner without a name", 120)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    """A certificate for a key, with what every certificate has."""
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=TEST_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _test_name(common_name: str) -> x509.Name:
    parts = {NameOID.ORGANIZATION_NAME: TEST_ORGANIZATION, NameOID.COMMON_NAME: common_name}
    return x509.Name([x509.NameAttribute(part, value) for part, value in parts.items()])


def _key_usage(*granted: str) -> x509.KeyUsage:
    every = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign crl_sign "
        "encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: name in granted for name in every.split()})


def _algorithm(key: PrivateKeyTypes) -> str:
    """The signature algorithm for a key. Raises InputError if C2PA has none."""
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise InputError(f"C2PA signs with keys of P-256, P-384, P-521, Ed25519, or RSA of at least {MIN_RSA_BITS} bits")


def check_usage(signer: x509.Certificate) -> None:
    """Raise InputError unless a certificate follows C2PA's profile for signers."""
    name = name_of(signer)
    if signer.subject == signer.issuer:
        raise InputError(f"the certificate of {name} is signed by itself; C2PA needs one that an authority has signed")
    constraints, usage = _extension(signer, x509.BasicConstraints), _extension(signer, x509.KeyUsage)
    if constraints is not None and constraints.ca:
        raise InputError(f"the certificate of {name} is that of an authority; the first one must be the signer's")
    if usage is None or not usage.digital_signature:
        raise InputError(f"the certificate of {name} lacks the key usage digitalSignature")
    purposes = {purpose.dotted_string for purpose in _extension(signer, x509.ExtendedKeyUsage) or ()}
    if ANY_PURPOSE in purposes or not purposes & set(PURPOSES):
        raise InputError(
            f"the certificate of {name} is not for signing pictures: its extended key usage must be C2PA claim signing "
            f"({CLAIM_SIGNING}), e-mail protection or document signing"
        )


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    """The value of an extension, or None."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _name_part(certificate: x509.Certificate, part: x509.ObjectIdentifier) -> str | None:
    found = certificate.subject.get_attributes_for_oid(part)
    return str(found[0].value) if found else None
