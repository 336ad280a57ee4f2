"""Which data set `--data` names."""

from pathlib import Path

from fend.datasets.registry import SPEC_FORMS
from fend.errors import Invalid

_SPLITS = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation")}


def data_specs(data: str) -> tuple[str, str]:
    """The specs of the images to learn from and of those to test on, for what `--data` names: a
    folder of class folders, or of train and test (or val) with class folders each; a CSV, parquet
    or npz file, or a folder of parquet files; or a data set by its name. Where there are no test
    images, both are the same.

    Raises:
        Invalid (`dataset_unknown`): none of these.
    """
    path = Path(data)
    forms = [part for form in SPEC_FORMS for part in form.form.split(", ")]
    if path.is_dir():
        return _in_folder(path.absolute())
    for suffix in ("csv", "parquet", "npz"):
        if path.is_file() and path.suffix.lower() == f".{suffix}":
            return (spec := f"{suffix}:{path.absolute()}"), spec
    if f"{data}:train" in forms:
        return f"{data}:train", f"{data}:test"
    if ":" in data:
        other = data.removesuffix(":train") + ":test"
        return data, other if other in forms else data
    raise Invalid(
        f"--data: there is no folder or file {data}, and no data set of this name; there are: "
        f"{', '.join(form.form for form in SPEC_FORMS)}",
        code="dataset_unknown",
    )


def _in_folder(folder: Path) -> tuple[str, str]:
    inside = {entry.name: entry for entry in folder.iterdir() if not entry.name.startswith(".")}
    shards = [path for path in inside.values() if path.suffix == ".parquet"]
    if shards:
        by_split = [
            f"parquet:{folder}/{name}-*.parquet"
            for names in _SPLITS.values()
            for name in names
            if any(path.name.startswith(f"{name}-") for path in shards)
        ]
        return (by_split[0], by_split[1]) if len(by_split) > 1 else (f"parquet:{folder}",) * 2
    train, test = (
        next((inside[name] for name in names if name in inside), None) for names in _SPLITS.values()
    )
    known = {name for names in _SPLITS.values() for name in names}
    if train and test and inside.keys() <= known:  # else "train" may be a class
        return f"folder:{train}", f"folder:{test}"
    return f"folder:{folder}", f"folder:{folder}"
