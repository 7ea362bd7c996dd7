"""Reading of model files, both tensors and packed zips, none of which is trusted.

A model file from elsewhere may be malicious: a pickle can run code, and a zip can write
outside its folder or unpack to terabytes.
"""

import argparse
import re
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from espnet2_birq.errors import LFS_MAGIC, DataError
from espnet2_birq.reading import refusing

ZIP_MAGIC, PICKLE_MAGIC = b"PK\x03\x04", b"\x80"
# Tensors do not compress, so a packed model is as large unpacked as packed.
MOST_TIMES_LARGER, ALWAYS_ALLOWED = 20, 64 << 20  # bytes


def check_model_file(path: str | Path) -> None:
    """Check that a PyTorch file exists and is complete.

    Args:
        path: PyTorch file.

    Raises:
        DataError: The file is missing, empty, truncated or of another type.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if fault := find_fault(path):
        raise DataError(f"{path}: {fault}; copy it again, or make it again")


def load_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Load a model file's tensors to the CPU, without running any code in the file.

    Args:
        path: Model state written by torch.save(), or a safetensors file.

    Raises:
        DataError: The file is missing or incomplete, or holds anything but tensors.
    """
    if Path(path).suffix == ".safetensors":
        return _load_safetensors(Path(path))
    state = load_plain(path)
    if not isinstance(state, dict) or not all(
        isinstance(x, torch.Tensor) for x in state.values()
    ):
        raise DataError(
            f"{path}: contains no model tensors; give an *epoch.pth or *ave.pth"
        )
    return state


def load_plain(path: str | Path, mmap: bool = False) -> Any:
    """Load a PyTorch file's tensors, numbers and containers, without running code.

    Args:
        path: PyTorch file.
        mmap: Whether to leave tensors on disk until they are used.

    Raises:
        DataError: The file is missing or incomplete, or holds anything else.
    """
    check_model_file(path)
    try:
        with refusing(path, ""):
            return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except DataError as error:  # PyTorch's own message is a page of advice
        raise DataError(
            f"{path}: is damaged, or contains more than tensors; it is not loaded, since "
            "that could execute code"
        ) from error


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise DataError(f"{path}: to load it, pip install safetensors") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path}: {error}; copy it again, or make it again") from error


def unpack(path: Path, folder: Path) -> list[Path]:
    """Unpack an untrusted zip into a folder.

    Returns:
        Paths of the unpacked files.

    Raises:
        DataError: The file is not a zip, has a link or a path that leads outside the
            folder, or is far larger unpacked than packed.
    """
    try:
        with refusing(path, "no whole zip"), zipfile.ZipFile(path) as archive:
            members = [x for x in archive.infolist() if not x.is_dir()]
            for member in members:
                name = PurePosixPath(member.filename.replace("\\", "/"))
                if name.is_absolute() or ".." in name.parts or ":" in name.parts[0]:
                    raise DataError(
                        f"{path}: {member.filename!r} leads out of it: not unpacked"
                    )
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise DataError(
                        f"{path}: {member.filename!r} is a link: not unpacked"
                    )
            size = sum(member.file_size for member in members)
            if size > max(MOST_TIMES_LARGER * path.stat().st_size, ALWAYS_ALLOWED):
                raise DataError(f"{path}: unpacks to {size:.2g} bytes: not unpacked")
            archive.extractall(folder, members)
    except OSError as error:  # such as a name that the file system refuses
        raise DataError(f"{path}: {error}") from error
    return [folder / member.filename for member in members]


def find_fault(path: Path) -> str | None:
    """Return a description of a PyTorch file's fault; None if no fault is found.

    Of a zip file written by torch.save(), only the start and the end are read.
    """
    with path.open("rb") as stream:
        head = stream.read(len(LFS_MAGIC))
    if not head:
        return "is empty"
    if head == LFS_MAGIC:
        return "is a git-LFS pointer, not a model (git lfs pull)"
    if head.startswith(ZIP_MAGIC):
        try:
            return None if zipfile.is_zipfile(path) else "is cut short"
        except zipfile.BadZipFile as error:
            return f"is damaged ({error})"
    # PyTorch's format before 1.6 is a pickle.
    return None if head.startswith(PICKLE_MAGIC) else "is no file of PyTorch's"


def check_training_files(args: argparse.Namespace) -> None:
    """Check the files that ESPnet loads before training.

    Args:
        args: ESPnet's options. All files of ``init_param`` are checked and, when
            resuming, the checkpoint and the models of its epochs.

    Raises:
        DataError: A file is incomplete.
    """
    for spec in args.init_param or ():
        check_model_file(spec.split(":")[0])
    if args.resume and args.output_dir is not None:
        _check_resume(Path(args.output_dir))


def _check_resume(folder: Path) -> None:
    checkpoint = folder / "checkpoint.pth"
    if not checkpoint.is_file():
        return
    models = [path for path in folder.glob("*epoch.pth") if _epoch(path)]
    models.sort(key=_epoch)
    faults = {path: fault for path in models if (fault := find_fault(path))}
    if fault := find_fault(checkpoint):
        whole = [path for path in models if path not in faults]
        how = "training then begins anew"
        if whole:
            how += f", with --init_param {whole[-1]} from its last whole model"
        raise DataError(
            f"{checkpoint}: {fault}: training cannot be resumed; move it and "
            f"progress.pth away: {how}"
        )
    for path, fault in faults.items():
        how = "copy it again"
        if path == models[-1]:
            # ESPnet writes it after the checkpoint, with the same weights.
            how = (
                f'make it of the checkpoint: python3 -c "import torch; torch.save('
                f"torch.load('{checkpoint}', 'cpu')['model'], '{path}')\""
            )
        raise DataError(f"{path}: {fault}; ESPnet needs it for its averages; {how}")


def _epoch(path: Path) -> int:
    match = re.fullmatch(r"(\d+)epoch\.pth", path.name)
    return int(match[1]) if match else 0
