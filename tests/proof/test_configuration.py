"""Configuration as code on the running product: idempotent, all or nothing, in force at once."""

from pathlib import Path

import pytest

from tests.product import HOST, Product, wait_until
from tests.proof.delivered import folder_destination, names_in, to_every
from tests.proof.objects import study_of
from tests.senders import send_raw

pytestmark = [pytest.mark.database, pytest.mark.timeout(120)]

WRONG = """\
version: 1
destinations:
  - {name: disk, kind: folder, path: /nowhere, layout: "{SOPInstanceUID}.dcm"}
rules:
  - name: ct
    state: live
    when: {field: Modality, op: resembles, value: CT}
    sned: [disk]
"""


def test_a_configuration_is_applied_once_whole_or_not_at_all(
    product: Product, tmp_path: Path
) -> None:
    plain = to_every(folder_destination("disk", tmp_path / "a"))
    product.apply(
        {
            **plain,
            "sources": [{"name": "ct-1", "ae_title": "CT*", "hosts": ["10.0.0.0/8"]}],
            "defaults": {"unmatched": "archive", "quiet": "90s", "quiet_cap": "1h"},
        }
    )
    exported, again = tmp_path / "exported.yaml", tmp_path / "again.yaml"
    product.command("export_config", str(exported))
    assert product.command("apply_config", str(exported)).strip() == "no change"

    product.apply(plain)
    assert product.apply(plain).strip() == "no change"
    assert product.command("apply_config", "--dry-run", str(exported)).strip() != "no change"

    product.command("export_config", str(again))
    refused = product.run("apply_config", str(product.write(WRONG, name="wrong.yaml")))
    assert refused.returncode == 1
    lines = refused.stderr.splitlines()
    assert [line for line in lines if "line 8" in line and "sned" in line], lines
    assert [line for line in lines if "line 7" in line and "resembles" in line], lines
    assert product.command("apply_config", str(again)).strip() == "no change"


def test_the_next_study_follows_the_newest_revision(product: Product, tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name
        product.apply(to_every(folder_destination(f"to-{name}", folder)))
        study = study_of(2)
        send_raw(HOST, product.port, study)
        uids = {one.sop_instance_uid for one in study}
        wait_until(lambda: uids <= names_in(folder), seconds=10, what=f"a study in {name}")  # noqa: B023
        product.wait_idle()
        elsewhere = [path for path in tmp_path.iterdir() if path.is_dir() and path != folder]
        assert not [path for path in elsewhere if uids & names_in(path)]
