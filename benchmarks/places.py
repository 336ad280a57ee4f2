"""Where the benchmarks find data: FEND_DATA_DIR, or the folder that `fend data fetch` fills."""

import os
from pathlib import Path


def default_data_dir() -> Path:
    """The folder of the data sets."""
    return Path(os.environ.get("FEND_DATA_DIR", ".fend/data"))
