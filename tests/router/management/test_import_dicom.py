"""``import_dicom``: counts on the last line; 1 when a file was refused, 2 for a wrong path."""

import io
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from router.models import Association, Instance
from tests.intake import Site, image, part10_file

pytestmark = pytest.mark.django_db


def _import(*arguments: str) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("import_dicom", *arguments, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


@pytest.fixture
def folder(site: Site, tmp_path: Path) -> Path:
    """Return a folder with three objects."""
    for number in (1, 2, 3):
        part10_file(tmp_path / "in" / f"{number}.dcm", image(number))
    return tmp_path / "in"


def test_imports_and_goes_on(folder: Path) -> None:
    assert _import(str(folder))[0].endswith("3 imported, 0 already stored, 0 refused\n")
    part10_file(folder / "4.dcm", image(4))
    assert _import(str(folder))[0].endswith("1 imported, 3 already stored, 0 refused\n")
    assert Instance.objects.current().count() == 4


def test_rules_see_the_calling_ae(folder: Path) -> None:
    _import(str(folder / "1.dcm"), "--calling-ae", "OLDPACS")
    assert Association.objects.get().calling_ae == "OLDPACS"


def test_names_what_it_refused(folder: Path) -> None:
    (folder / "notes.txt").write_text("not an image " * 50)
    err = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("import_dicom", str(folder), stdout=io.StringIO(), stderr=err)
    assert caught.value.returncode == 1
    assert f"refused {folder / 'notes.txt'}: " in err.getvalue()
    assert Instance.objects.current().count() == 3


def test_a_path_that_is_not_there(folder: Path) -> None:
    with pytest.raises(CommandError) as caught:
        _import(str(folder), str(folder / "nowhere"))
    assert caught.value.returncode == 2
    assert not Instance.objects.exists()
