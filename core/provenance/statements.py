"""Signs texts with a credential, and checks such signatures: for files that hold no C2PA manifest.

A statement is a text. It is signed with the credential's key, and its chain of certificates lies beside it. Trust comes from the file of
certificates that the reader of the statement names.

This module needs the extra `provenance`. So it is imported where it is used.
"""

from __future__ import annotations

import base64
import binascii
import datetime
from dataclasses import dataclass

from stylert.core.errors import InputError, SigningError, missing_extra
from stylert.core.provenance.certificates import (
    certificates_text,
    check_dates,
    check_usage,
    damage_is_told,
    name_of,
    read_certificates,
    read_key,
)
from stylert.core.provenance.credentials import Credential

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
    from cryptography.x509.verification import ExtensionPolicy, PolicyBuilder, Store, VerificationError
except ImportError:
    raise missing_extra("cryptography", "provenance") from None


@dataclass(frozen=True)
class SignedStatement:
    """A text with its signature.

    Attributes:
        statement: The text.
        certificates: PEM: the signer's certificate, then that of its issuer, and so on.
        signature: The signature of the text in UTF-8, in base64.
    """

    statement: str
    certificates: str
    signature: str


def sign_statement(credential: Credential, statement: str) -> SignedStatement:
    """Sign a text. ECDSA has the hash function of the same size as the curve, RSA is PSS with SHA-256."""
    key, data = read_key(credential.key), statement.encode()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(data, ec.ECDSA(_hash_for(key.curve)))
    elif isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(data, _PSS, hashes.SHA256())
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(data)
    else:
        raise SigningError("the key is of a kind that cannot sign statements")
    return SignedStatement(statement, certificates_text(credential.certificates), base64.b64encode(signature).decode("ascii"))


def check_statement(signed: SignedStatement, trusted: bytes) -> str:
    """Check that a text is signed by a signer whom one of the trusted certificates vouches for, or is.

    Args:
        signed: The text with its signature.
        trusted: PEM file of certificates.

    Returns:
        The name of the signer.

    Raises:
        InputError: The signature does not hold, the signer is not trusted, or a certificate is not valid now or cannot be read.
    """
    with damage_is_told():
        anchors, chain = read_certificates(trusted, limit=None), read_certificates(signed.certificates.encode())
        signer = chain[0]
        policy = (
            PolicyBuilder()
            .store(Store(anchors))
            .extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=ExtensionPolicy.permit_all())
        )
        try:
            policy.build_client_verifier().verify(signer, chain[1:])
        except VerificationError:
            for certificate in chain:  # whoever the signer is, this is the reason that time alone can have brought
                check_dates(certificate, datetime.datetime.now(datetime.UTC))
            raise InputError(f"no certificate that you named vouches for the signer, {name_of(signer)}") from None
        check_usage(signer)
        if not _is_signature(signed, signer.public_key()):
            raise InputError("its signature does not hold: it was changed after it was signed")
        return name_of(signer)


def _is_signature(signed: SignedStatement, key: CertificatePublicKeyTypes) -> bool:
    """Whether the signature of a text is by this key. Keys of other kinds sign no texts."""
    try:
        signature, data = base64.b64decode(signed.signature, validate=True), signed.statement.encode()
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(_hash_for(key.curve)))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, _PSS, hashes.SHA256())
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        else:
            return False
    except (InvalidSignature, binascii.Error):
        return False
    return True


_PSS = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)


def _hash_for(curve: ec.EllipticCurve) -> hashes.HashAlgorithm:
    """The hash function of ES256, ES384 and ES512."""
    if curve.key_size <= 256:
        return hashes.SHA256()
    return hashes.SHA384() if curve.key_size <= 384 else hashes.SHA512()
