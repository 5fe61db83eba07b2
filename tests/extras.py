"""Each service's extra alone: a fresh environment with that extra's lock, in which the service's modules import.

`make extras` calls it. A service that quietly needs another's library fails here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "cache": ["faiss", "openvino", "torch", "tokenizers"],
    "embedding": ["faiss", "torch", "redis"],
    "gateway": ["faiss", "openvino", "torch", "redis", "tokenizers"],
    "generation": ["faiss", "torch", "redis"],
    "ingestion": ["faiss", "openvino", "torch", "redis"],
    "retrieval": ["openvino", "torch", "redis", "tokenizers"],
}
CHECK = """
import importlib, importlib.util, pkgutil, sys
service, absent = sys.argv[1], sys.argv[2:]
package = importlib.import_module(f"services.{service}")
optional = {"sentence_transformers"}
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__") and module.name.rsplit(".", 1)[-1] not in optional:
        importlib.import_module(module.name)
there = [name for name in absent if importlib.util.find_spec(name)]
sys.exit(f"{service} brings {there}" if there else 0)
"""


def check(extra: str) -> None:
    """Install one extra and import its service; raises CalledProcessError when either fails."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "--disable-pip-version-check",
            "install",
            "--quiet",
        ]
        subprocess.run([*pip, "--require-hashes", "-r", str(ROOT / "requirements" / f"{extra}.txt")], check=True)
        paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}", "PATH": "/usr/bin:/bin"}
        subprocess.run([str(python), "-c", CHECK, extra, *HEAVY[extra]], check=True, cwd=folder, env=paths)
    print(f"{extra}: imports with its own extra alone")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        check(name)
