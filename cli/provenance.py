"""Declares `stylert provenance`: the key that signs pictures, and the check of signed files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stylert.cli.app import BundlePath, CommandGroup, JsonFile, app
from stylert.cli.console import print_line, print_note
from stylert.core.errors import InputError
from stylert.core.files.outputs import check_output, write_json

provenance = CommandGroup(help="Sign pictures, and check signed ones.", no_args_is_help=True)
app.add_typer(provenance, name="provenance")

Folder = Annotated[
    Path | None,
    typer.Option(help="Folder of the key, in place of the one in your settings. STYLERT_SIGN=FOLDER then signs with it."),
]
TEST = "test certificate, which proves no identity"


@provenance.callback()
def _group() -> None:
    """Sign pictures, and check signed ones."""


@provenance.command("init")
def init(
    cert: Annotated[Path | None, typer.Option(help="PEM file of your certificate chain, the signer's first.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of your private key.")] = None,
    folder: Folder = None,
    timestamp_server: Annotated[
        str | None, typer.Option(metavar="URL", help="Also get a timestamp (RFC 3161) over the network for each signature.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the key that is there. A test key is lost.")] = False,
) -> None:
    """Sign all pictures and videos from now on: with a certificate for trying that this command makes, or with yours."""
    from stylert.core.provenance import credentials, signing

    if (cert is None) != (key is None):
        raise InputError("--cert and --key go together; without both, a certificate for trying is made")
    place = (folder or credentials.default_folder()).absolute()
    credentials.check_vacant(place, replace)
    if cert is not None and key is not None:
        credential = credentials.user_credential(cert, key, timestamp_server)
        signing.check_signs(credential)
        credentials.write_user_credential(place, cert, key, replace, timestamp_server)
    else:
        credential = credentials.new_test_credential(timestamp_server)
        signing.check_signs(credential)
        credentials.write_test_credential(place, replace, credential)
    signing.forget_signer()
    when = "from now on" if folder is None else f"where STYLERT_SIGN={place} is set"
    print_line(f"wrote {place}: pictures and videos are signed {when}, until {credential.chain.not_after:%Y-%m-%d}")
    if credential.chain.is_test:
        print_line(f"the signer is a {TEST}")


@provenance.command("status")
def status() -> None:
    """Say whether pictures are signed, and with which key."""
    from stylert.core.provenance import credentials

    folder = credentials.chosen_folder()
    if folder is None:
        print_line(f"pictures are not signed: {credentials.SWITCH} is off, or there is no key (stylert provenance init)")
        return
    credential, settings = credentials.read_credential(folder), credentials.read_settings(folder)
    kind = f", a {TEST}" if credential.chain.is_test else ""
    print_line(f"pictures are signed by {credential.chain.signer}{kind}")
    print_line(f"valid until   {credential.chain.not_after:%Y-%m-%d}")
    print_line(f"algorithm     {credential.chain.algorithm}")
    print_line(f"certificates  {folder / settings.certificates}")
    print_line(f"key           {folder / settings.key}")
    print_line(f"timestamps    {settings.timestamp_server or 'none'}")


@provenance.command("remove")
def remove(folder: Folder = None) -> None:
    """Sign no more: remove the settings, and the key for trying. Your own key stays where it is."""
    from stylert.core.provenance import credentials, signing

    place = folder or credentials.default_folder()
    removed = credentials.remove_credential(place)
    signing.forget_signer()
    print_line(f"removed {', '.join(map(str, removed))}" if removed else f"there is no key in {place}")


@provenance.command("verify")
def verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pictures and videos.")],
    trust: Annotated[
        Path | None,
        typer.Option(help="PEM file of authorities that you trust. A file of another signer then counts as not verified."),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Check that files are signed and unchanged. Exit with 1 if one is not. Nothing is fetched from the network."""
    from stylert.core.provenance.verification import verify_files

    check_output(json, "JSON", files)
    verdicts = verify_files(files, trust)
    good = [verdict.state == "valid" and (trust is None or verdict.trust == "named") for verdict in verdicts]
    for file, verdict in zip(files, verdicts, strict=True):
        if verdict.state == "missing":
            print_note(f"stylert: {verdict.why}", style="red")
            continue
        print_line(f"{file}: {verdict.summary}")
        if len(files) == 1:
            _print_statements(verdict)
    if len(files) > 1:
        print_line(f"{sum(good)} of {len(files)} files are verified")
    if json is not None:
        write_json(
            json, {"files": [_facts(file, verdict, ok) for file, verdict, ok in zip(files, verdicts, good, strict=True)]}
        )
    if not all(good):
        raise typer.Exit(2 if any(verdict.state == "missing" for verdict in verdicts) else 1)


@provenance.command("sign-bundle")
def sign_bundle(bundle: BundlePath) -> None:
    """Sign a bundle with your key, engines included. Others require it with --require-signature CERT."""
    from stylert.runtime.bundle_signature import SIGNATURE_FILE
    from stylert.runtime.bundle_signature import sign_bundle as sign

    print_line(f"wrote {bundle / SIGNATURE_FILE}, signed by {sign(bundle)}")


def _print_statements(verdict: Any) -> None:
    """Print what the manifest of a file says."""
    statements = {"program": verdict.program, "source": verdict.source, "recipe": verdict.recipe}
    for name, text in statements.items():
        if text:
            print_line(f"  {name:8} {text}")


def _facts(file: Path, verdict: Any, ok: bool) -> dict[str, Any]:
    """A verdict for the JSON document."""
    return {
        "file": str(file),
        "verified": ok,
        "state": verdict.state,
        "trust": verdict.trust,
        "test_certificate": verdict.is_test,
        "signer": verdict.signer,
        "organization": verdict.organization,
        "program": verdict.program,
        "source": verdict.source,
        "recipe": verdict.recipe,
        "problems": list(verdict.problems),
        "reason": verdict.why,
    }
