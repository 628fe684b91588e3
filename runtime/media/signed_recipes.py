"""Reads the recipe of a file together with its signature, if it has one."""

from __future__ import annotations

from pathlib import Path

from stylert.core.errors import InputError, as_path
from stylert.core.provenance.verification import Verdict, can_verify, verify_files
from stylert.runtime.media.recipes import Recipe, read_recipe


def read_signed_recipe(path: str | Path) -> tuple[Recipe, Verdict | None]:
    """The recipe of a picture or video, and what its signature proves.

    If the signature holds, the recipe is the signed one. Otherwise it is that of the file's comment, which anybody can write.

    Returns:
        The recipe, and the verdict; None if the extra `provenance` is not installed.

    Raises:
        InputError: There is no recipe, or it is not valid.
    """
    path = as_path(path, "picture")
    if not can_verify():
        return read_recipe(path), None
    (verdict,) = verify_files([path])
    if verdict.state != "valid" or verdict.recipe is None:
        return read_recipe(path), verdict
    try:
        return Recipe.from_json(verdict.recipe), verdict
    except InputError as e:
        raise InputError(f"{path}: {e}") from None
