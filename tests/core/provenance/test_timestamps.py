"""Timestamps of RFC 3161 are in the manifests, from a server of OpenSSL; without the server nothing is written."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stylert.core.errors import SigningError
from stylert.core.provenance.credentials import new_test_credential, write_test_credential
from stylert.core.provenance.signing import check_signs, signed
from stylert.core.provenance.verification import verify_files
from stylert.runtime.media.pictures import encoded_image

SETTINGS = """
[tsa]
default_tsa = server
[server]
serial = serial
crypto_device = builtin
signer_cert = signer.pem
certs = root.pem
signer_key = signer.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256, sha384, sha512
ess_cert_id_alg = sha256
"""
EXTENSIONS = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=critical,timeStamping\n"
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@pytest.fixture
def timestamp_server(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    """The address of a timestamp server, and the sizes of the requests that it got."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path / "server"
    folder.mkdir()
    for name, text in (("settings", SETTINGS), ("extensions", EXTENSIONS), ("serial", "01\n")):
        (folder / name).write_text(text)

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", *NEW_KEY, "-keyout", "root.key", "-out", "root.pem", "-subj", "/O=T/CN=root", "-days", "9")
    openssl("req", *NEW_KEY, "-keyout", "signer.key", "-out", "request", "-subj", "/O=T/CN=clock")
    authority = ("-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-extfile", "extensions")
    openssl("x509", "-req", "-in", "request", *authority, "-out", "signer.pem", "-days", "9")
    requests: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append(len(request))
            (folder / "query").write_bytes(request)
            openssl("ts", "-reply", "-queryfile", "query", "-out", "reply", "-config", "settings", "-section", "server")
            reply = (folder / "reply").read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", requests
        server.shutdown()


def test_a_signature_has_the_time_of_the_server(
    timestamp_server: tuple[str, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import c2pa

    address, requests = timestamp_server
    credential = new_test_credential(address)
    check_signs(credential)
    write_test_credential(tmp_path / "key", credential=credential)
    monkeypatch.setenv("STYLERT_SIGN", str(tmp_path / "key"))
    path = tmp_path / "picture.png"
    path.write_bytes(signed(encoded_image(np.zeros((16, 16, 3), np.uint8), ".png"), ".png", None))
    assert len(requests) == 2
    (verdict,) = verify_files([path])
    assert verdict.state == "valid"
    assert len(requests) == 2, "verifying asks no server"
    with c2pa.Reader(str(path)) as reader:
        report = json.loads(reader.json())
        codes = [entry["code"] for entry in reader.get_validation_results()["activeManifest"]["success"]]
    assert "timeStamp.validated" in codes
    assert report["manifests"][report["active_manifest"]]["signature_info"]["time"]


def test_a_server_that_is_not_there_is_one_line() -> None:
    with pytest.raises(SigningError, match="cannot be signed: the timestamp server gives no timestamp") as refused:
        check_signs(new_test_credential("http://127.0.0.1:9/"))
    assert "\n" not in str(refused.value)
