"""The names of pynetdicom we lean on that it does not promise to keep.

They are here so that one test fails when an upgrade takes one away; the version is pinned to
3.0.*. Nothing is imported from here by the receiver itself.
"""

from pynetdicom import transport
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.service_class import StorageServiceClass

# Methods that we override or call.
METHODS: dict[type, tuple[str, ...]] = {
    Association: ("_run_reactor", "_serve_request", "run_reactor", "set_socket"),
    DULServiceProvider: (
        "_decode_pdu",
        "_is_transport_event",
        "_read_pdu_data",
        "run_reactor",
        "send_pdu",
    ),
    ACSE: ("_negotiate_as_acceptor", "send_accept", "send_reject"),
    transport.AssociationServer: ("service_actions", "server_bind", "server_close"),
    transport.AssociationSocket: ("_shutdown_socket", "event_queue", "ready"),
    StorageServiceClass: ("SCP",),
}
# Attributes that an instance has after construction, and that we read or set.
ATTRIBUTES: dict[type, tuple[str, ...]] = {
    Association: (
        "_accepted_cx",
        "_rejected_cx",
        "_kill",
        "_server",
        "acse",
        "dul",
        "is_established",
        "is_aborted",
        "is_released",
    ),
    DULServiceProvider: (
        "_recv_pdu",
        "_idle_timer",
        "event_queue",
        "state_machine",
        "socket",
        "to_user_queue",
    ),
    transport.AssociationServer: ("ae", "ae_title", "shutdown_request"),
    transport.AssociationSocket: ("_is_connected", "socket"),
}
