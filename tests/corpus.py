"""Real objects for tests: what pydicom carries in its package and, when there, ROUTER_TEST_DATA.

Nothing is downloaded: only files that already lie on this machine are listed.
"""

import os
from pathlib import Path

import pydicom.data

_PACKAGE = Path(pydicom.data.__file__).parent
_PROJECT = Path(__file__).resolve().parent.parent
_NOT_WHOLE = {
    "MR_truncated.dcm",
    "rtplan_truncated.dcm",
    "DICOMDIR-nooffset",
    "emri_small_jpeg_2k_lossless_too_short.dcm",
    "no_meta.dcm",  # begins with a stray byte
    "meta_missing_tsyntax.dcm",  # no data set that tells its encoding
    "chrJapMulti.dcm",  # rows and columns, but no pixels
    "chrJapMultiExplicitIR6.dcm",
    "chrKoreanMulti.dcm",
}


def real_data_folder() -> Path:
    """Where the real objects lie; the folder need not exist."""
    return Path(os.environ.get("ROUTER_TEST_DATA", str(_PROJECT / "../shared/data/real")))


def every_file() -> list[Path]:
    """All files of the corpus, damaged ones included."""
    roots = (_PACKAGE / "test_files", _PACKAGE / "charset_files", real_data_folder())
    found = [path for root in roots for path in root.rglob("*") if path.is_file()]
    return sorted(path for path in found if _looks_like_dicom(path))


def whole_files() -> list[Path]:
    """The files that hold a whole and lawful object."""
    return [path for path in every_file() if path.name not in _NOT_WHOLE]


def damaged_files() -> list[Path]:
    """The files that are cut or lack what they announce."""
    return [path for path in every_file() if path.name in _NOT_WHOLE]


def _looks_like_dicom(path: Path) -> bool:
    return path.suffix in {".dcm", ""} and not path.name.startswith(("README", "LICENSE"))
