"""What every test shares: one thread, no network, a Hugging Face home of its own, and the real data.

The environment is set while this file is imported, because torch and huggingface_hub read theirs when
they are imported.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_DATA = REPOSITORY.parent / "shared" / "data"

# One thread a worker: sums are then taken in the same order whatever runs beside a test.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)
os.environ.setdefault("POSTTRAIN_DATA", str(DEFAULT_DATA))

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit the folder of the process that starts them
    _home = tempfile.mkdtemp(prefix="posttrain-tests-hf-")
    atexit.register(shutil.rmtree, _home, ignore_errors=True)
    os.environ["HF_HOME"] = _home


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of public data sets that POSTTRAIN_DATA names; the test is skipped where it is absent."""
    folder = Path(os.environ["POSTTRAIN_DATA"])
    if not folder.is_dir():
        pytest.skip(f"POSTTRAIN_DATA names no folder ({folder}): set it to the folder of public data sets")
    return folder
