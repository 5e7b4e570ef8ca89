"""Files from the network: resumable, with a progress bar, and checked against the digest of the first download."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

_CHUNK = 1 << 20


def cache_folder() -> Path:
    """Where downloads and conversions are kept: $RCDM_HOME, or `rcdm` in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rcdm"
    return Path(os.environ.get("RCDM_HOME", default))


def fetch(url: str, target: Path) -> Path:
    """Download a file once; an interrupted download continues where it stopped. Returns `target`.

    The SHA-256 of the whole file is remembered beside it. Raises ValueError when the file cannot be had, or when the
    one that lies there has changed since.
    """
    remembered = target.with_name(target.name + ".sha256")
    if target.exists() and remembered.exists():
        if sha256(target) != remembered.read_text().strip():
            raise ValueError(f"{target} has changed since it was downloaded: delete it, then it is downloaded again.")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        _continue(url, partial)
    except (urllib.error.URLError, OSError) as error:
        raise ValueError(
            f"{url} cannot be downloaded ({error}); try again, or put the file at {target.resolve()} yourself."
        ) from error
    partial.rename(target)
    remembered.write_text(sha256(target) + "\n")
    return target


def _continue(url: str, partial: Path) -> None:
    """Append to a partial file what it lacks; from the beginning where the server sends no parts."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send
            return
        raise
    with answer:
        resumed = answer.status == 206
        length = int(answer.headers.get("Content-Length") or 0)
        total = (have if resumed else 0) + length or None
        with (
            open(partial, "ab" if resumed else "wb") as file,
            tqdm(total=total, initial=have if resumed else 0, unit="B", unit_scale=True, desc=partial.stem) as bar,
        ):
            received = 0
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                received += len(chunk)
                bar.update(len(chunk))
        if length and received < length:
            raise OSError(f"the connection ended after {received} of {length} bytes")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
