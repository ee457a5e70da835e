"""Files that are either whole or not there, and results that say when they are not what was written."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import h5netcdf
import xarray as xr


def writable(path: str | Path) -> Path:
    """A path at which a file can be written, ~ being the user's home; its folder is made.

    Parameters
    ----------
    path : path

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If it can't.
    """
    path = Path(path).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"nothing can be written into {path.parent} ({error}); name another folder") from error
    return path


def write(path: str | Path, writer: Callable[[Path], object]) -> None:
    """Have a file written beside its place, then moved there in one step.

    Parameters
    ----------
    path : path
        Its place; folders are made.
    writer : callable
        Writes to the path that it is given.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}-", suffix=".part")
    os.close(handle)
    try:
        writer(Path(name))
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # temporary files are for their owner alone
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def save(path: str | Path, tree: xr.DataTree, compress: bool = True) -> None:
    """Write a tree as NetCDF, with a digest of its contents among its attributes.

    Parameters
    ----------
    path : path
        Where to; what is there is replaced in one step.
    tree : xarray.DataTree
    compress : bool
        Whether to compress it as far as possible, which takes time.
    """
    tree = tree.copy()
    tree.attrs = tree.attrs | {"content": content(tree)}
    how = {"_FillValue": None} | ({"zlib": True, "complevel": 9, "shuffle": True} if compress else {})
    memory = io.BytesIO()  # HDF5 aborts where a disk is full
    with h5netcdf.File(memory, "w", libver="v110") as file:  # what older forms note of a variable takes 3 kB
        for node in tree.subtree:
            group = file if node is tree else file.create_group(node.path)
            data = node.to_dataset(inherit=False).drop_encoding()
            data.dump_to_store(xr.backends.H5NetCDFStore(group), encoding=dict.fromkeys(data.data_vars, how))
    write(path, lambda p: p.write_bytes(memory.getbuffer()))


def load(path: str | Path, sealed: bool = False) -> xr.DataTree:
    """Read a tree into memory.

    Parameters
    ----------
    path : path
        A file that `save` wrote, or any tree in NetCDF.
    sealed : bool
        Whether it must be one that `save` wrote.

    Returns
    -------
    xarray.DataTree

    Raises
    ------
    ValueError
        If it can't be read, or is not what `save` wrote; a file that states no digest (such as one by
        ``tree.to_netcdf``) is taken as it is unless it must be sealed.
    """
    path = Path(path).expanduser()
    try:
        with xr.open_datatree(path, engine="h5netcdf") as opened:
            tree = opened.load()
    except FileNotFoundError:
        raise ValueError(f"there is no run file {path}") from None
    except Exception as error:
        raise ValueError(f"the run file {path} is damaged ({error}); delete it to compute the run again") from error
    told = tree.attrs.pop("content", None)
    if told is None and sealed:
        raise ValueError(f"{path} is not a run of an experiment: it states no digest of what it holds")
    if told is not None and told != content(tree):
        raise ValueError(f"the run file {path} was changed after it was written; delete it to compute the run again")
    return tree


def content(tree: xr.DataTree) -> str:
    """SHA-256 of all arrays of a tree, and of its nodes' attributes.

    Parameters
    ----------
    tree : xarray.DataTree

    Returns
    -------
    str
        Hexadecimal.
    """
    h = sha256()
    for node in sorted(tree.subtree, key=lambda node: node.path):
        h.update(repr((node.path, sorted((k, str(v)) for k, v in node.attrs.items() if k != "content"))).encode())
        for name, x in sorted(node.variables.items(), key=lambda item: str(item[0])):
            values = x.values
            text = values.dtype.kind in "OUS"
            h.update(repr((name, x.dims, x.shape, "text" if text else str(values.dtype))).encode())
            h.update(repr(values.tolist()).encode() if text else values.tobytes())
    return h.hexdigest()
