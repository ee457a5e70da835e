"""Where large parts of a page go: into the notebook, or into files that it links to.

The environment variable ``CFLOWS_MEDIA`` names a folder for such files, and ``CFLOWS_MEDIA_URL`` what the links to them
begin with (by default the folder itself). ``book/build.py`` sets both. Without them a notebook contains everything.
"""

from __future__ import annotations

import os
from pathlib import Path


def publishing() -> bool:
    """Whether there is a folder for files to link to: the book is being built.

    Returns
    -------
    bool
    """
    return bool(os.environ.get("CFLOWS_MEDIA"))


def publish(name: str, content: bytes) -> str:
    """Write a file for pages to link to, if there is a folder for such files.

    Parameters
    ----------
    name : str
        Name of the file.
    content : bytes

    Returns
    -------
    str
        What to link to; empty if there is no folder, so that the page has to contain the content.
    """
    if not (folder := os.environ.get("CFLOWS_MEDIA")):
        return ""
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, name).write_bytes(content)
    return f"{os.environ.get('CFLOWS_MEDIA_URL', folder)}/{name}"
