"""The contract with pynetdicom: the private names we lean on are there, and only those are used."""

import re
import socket
from pathlib import Path

import pynetdicom
import pytest
from pynetdicom import AE, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from ingest.internals import ATTRIBUTES, METHODS
from tests.receivers import Running

INGEST = Path(__file__).parents[2] / "ingest"


def test_the_version_is_the_one_that_was_read() -> None:
    assert pynetdicom.__version__.startswith("3.0.")


@pytest.mark.parametrize(("owner", "name"), [(o, n) for o, names in METHODS.items() for n in names])
def test_methods_are_there(owner: type, name: str) -> None:
    assert hasattr(owner, name)


def test_attributes_are_there(running: Running) -> None:
    assoc = Association(AE(), MODE_ACCEPTOR)
    near, far = socket.socketpair()
    instances = {
        "Association": assoc,
        "DULServiceProvider": assoc.dul,
        "AssociationServer": running.listening.server,
        "AssociationSocket": AssociationSocket(assoc, client_socket=near),
    }
    for owner, names in ATTRIBUTES.items():
        missing = [name for name in names if not hasattr(instances[owner.__name__], name)]
        assert missing == [], owner.__name__
    near.close()
    far.close()


def test_the_states_and_events_are_named_as_we_use_them() -> None:
    from pynetdicom.fsm import STATES, TRANSITION_TABLE

    assert {"Sta1", "Sta6", "Sta13"} <= set(STATES)
    assert TRANSITION_TABLE[("Evt19", "Sta6")] == "AA-8"
    assert TRANSITION_TABLE[("Evt17", "Sta6")] == "AA-4"
    assert TRANSITION_TABLE[("Evt12", "Sta6")] == "AR-2"
    assert evt.EVT_C_STORE.is_intervention


def test_private_names_are_used_only_where_they_are_listed() -> None:
    listed = {name for names in [*METHODS.values(), *ATTRIBUTES.values()] for name in names}
    listed |= {"_as_scu", "_as_scp", "_config", "_globals", "_STORAGE_CLASSES"}
    for path in INGEST.glob("*.py"):
        text = path.read_text()
        foreign = re.findall(r"(?:dul|assoc|acse|server|cx|answer)\.(_[a-z]\w*)", text)
        assert set(foreign) <= listed, path.name
