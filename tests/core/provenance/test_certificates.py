"""Chains for trying are right by OpenSSL, and wrong chains of users are refused in one line."""

from __future__ import annotations

import random
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from stylert.core.errors import InputError
from stylert.core.provenance.certificates import certificates_text, check_chain, make_test_chain, read_certificates
from stylert.core.provenance.credentials import CLAIM_SIGNING
from tests.core.provenance.certificate_chains import EMAIL, Chain, key_pem, make_chain, pem, self_signed
from tests.draws import run_seed


def test_a_chain_for_trying_is_a_strict_chain_of_openssl(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificates, key = make_test_chain()
    signer, authority = read_certificates(certificates)
    (tmp_path / "signer.pem").write_bytes(pem(signer))
    (tmp_path / "authority.pem").write_bytes(pem(authority))
    (tmp_path / "key.pem").write_bytes(key)

    def openssl(*arguments: str) -> str:
        return subprocess.run(["openssl", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "signer.pem: OK" in openssl("verify", "-x509_strict", "-CAfile", "authority.pem", "signer.pem")
    text = openssl("x509", "-in", "signer.pem", "-noout", "-text")
    for part in ("CA:FALSE", "Digital Signature\n", "E-mail Protection", CLAIM_SIGNING, "prime256v1"):
        assert part in text
    assert openssl("x509", "-in", "signer.pem", "-noout", "-pubkey") == openssl("pkey", "-in", "key.pem", "-pubout")


def test_a_chain_for_trying_says_so_and_names_neither_user_nor_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "grace")
    chain = check_chain(*make_test_chain())
    assert (chain.algorithm, chain.is_test) == ("es256", True)
    assert chain.signer == "unnamed user of stylert (stylert test certificate)"


KEYS = {
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "es512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("intermediate", [False, True])
def test_a_users_chain_of_every_algorithm_is_taken(algorithm: str, intermediate: bool) -> None:
    chain = make_chain(KEYS[algorithm](), intermediate=intermediate)
    checked = check_chain(chain.pem, chain.key)
    assert (checked.algorithm, checked.signer, checked.is_test) == (algorithm, "Ada (Example)", False)
    assert checked.not_after == chain.certificates[0].not_valid_after_utc


def test_a_chain_may_leave_out_its_root() -> None:
    chain = make_chain(intermediate=True)
    assert check_chain(pem(*chain.certificates[:2]), chain.key).signer == "Ada (Example)"


def swapped() -> tuple[bytes, bytes]:
    return make_chain().pem, make_chain().key


def of_key(key: object) -> tuple[bytes, bytes]:
    chain = make_chain(key)  # type: ignore[arg-type]
    return chain.pem, chain.key


def changed(change: Callable[[Chain], tuple[bytes, bytes]], **settings: object) -> Callable[[], tuple[bytes, bytes]]:
    return lambda: change(make_chain(**settings))  # type: ignore[arg-type]


def both(chain: Chain) -> tuple[bytes, bytes]:
    return chain.pem, chain.key


WRONG: dict[str, tuple[Callable[[], tuple[bytes, bytes]], str]] = {
    "the key of another chain": (swapped, "not that of the first certificate"),
    "expired": (changed(both, start=-9, end=-2), "expired on"),
    "not valid yet": (changed(both, start=2), "not valid before"),
    "self-signed": (lambda: both(self_signed()), "signed by itself"),
    "no purpose": (changed(both, purposes=None), "not for signing pictures"),
    "the purpose of a web server": (changed(both, purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)), "not for signing pictures"),
    "any purpose": (
        changed(both, purposes=(EMAIL, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)),
        "not for signing pictures",
    ),
    "no key usage": (changed(both, usage=None), "digitalSignature"),
    "another key usage": (changed(both, usage="key_encipherment"), "digitalSignature"),
    "an authority as signer": (changed(both, is_authority=True), "that of an authority"),
    "the authority first": (changed(lambda c: (pem(*reversed(c.certificates)), c.key)), "not that of the first certificate"),
    "a foreign issuer": (
        changed(lambda c: (pem(c.certificates[0], make_chain().certificates[1]), c.key)),
        "no chain: Ada (Example) is not signed by the next one",
    ),
    "a missing link": (
        changed(lambda c: (pem(c.certificates[0], c.certificates[2]), c.key), intermediate=True),
        "no chain",
    ),
    "eleven certificates": (changed(lambda c: (c.pem + c.pem * 5, c.key)), "at most 10 certificates"),
    "certificates in DER": (
        changed(lambda c: (c.certificates[0].public_bytes(Encoding.DER), c.key)),
        "no PEM file",
    ),
    "the key as certificates": (changed(lambda c: (c.key, c.key)), "no PEM file"),
    "the certificates as key": (changed(lambda c: (c.pem, c.pem)), "the key is no PEM file"),
    "an empty key": (changed(lambda c: (c.pem, b"")), "the key is no PEM file"),
    "a curve of bitcoin": (lambda: of_key(ec.generate_private_key(ec.SECP256K1())), "C2PA signs with keys of"),
    "a short RSA key": (lambda: of_key(rsa.generate_private_key(65537, 1024)), "C2PA signs with keys of"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_chain_or_key_is_refused_in_one_line(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(InputError) as refused:
        check_chain(*make())
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_key_with_a_password_is_refused_with_the_command_that_removes_it() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    chain = make_chain(key)
    with pytest.raises(InputError, match="openssl pkey -in"):
        check_chain(chain.pem, key_pem(key, b"secret"))


@pytest.mark.parametrize("name", ["P-256", "RSA-2048"])
def test_a_key_in_the_old_form_of_openssl_is_refused_with_the_command_that_converts_it(name: str, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()) if name == "P-256" else rsa.generate_private_key(65537, 2048)
    old = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    chain = make_chain(key)
    with pytest.raises(InputError, match="openssl pkcs8 -topk8 -nocrypt -in KEY") as refused:
        check_chain(chain.pem, old)
    (tmp_path / "old.pem").write_bytes(old)
    command = str(refused.value).partition("PKCS#8: ")[2].replace("KEY.pem", "new.pem").replace("KEY", "old.pem")
    subprocess.run(command.split(), check=True, cwd=tmp_path)
    check_chain(chain.pem, (tmp_path / "new.pem").read_bytes())


def test_damaged_certificates_and_keys_raise_no_other_error() -> None:
    draws = random.Random(run_seed())
    chain = make_chain()
    signer = chain.certificates[0].public_bytes(Encoding.DER)
    for _ in range(2000):
        damaged = bytearray(draws.choice([signer, chain.pem, chain.key]))
        for _ in range(draws.randint(1, 3)):
            damaged[draws.randrange(len(damaged))] = draws.randrange(256)
        certificates = ssl.DER_cert_to_PEM_cert(bytes(damaged)).encode() + pem(chain.certificates[1])
        is_der, is_key = damaged[0] == 0x30, len(damaged) == len(chain.key)
        try:
            check_chain(
                certificates if is_der else chain.pem if is_key else bytes(damaged), bytes(damaged) if is_key else chain.key
            )
        except InputError as e:
            assert "\n" not in str(e)


def test_text_around_the_certificates_is_left_out() -> None:
    chain = make_chain()
    assert (
        certificates_text("Schlüssel von Ada\n".encode("latin-1") + chain.pem + "\nEnde\u2026".encode()) == chain.pem.decode()
    )
