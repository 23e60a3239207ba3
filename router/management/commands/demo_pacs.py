"""``manage.py demo_pacs PORT``: a PACS on loopback that takes everything and keeps nothing."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from router.management.processes import StopRequest


def _take(_event: evt.Event) -> int:
    return 0x0000


class Command(BaseCommand):
    """Run the demo's PACS."""

    help = "A PACS on loopback for make demo: it takes everything and keeps nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the port."""
        parser.add_argument("port", type=int)

    def handle(self, *_args: Any, **options: Any) -> None:  # Any: Django's signature
        """Serve until SIGTERM."""
        stop = StopRequest()
        ae = AE(ae_title="DEMOPACS")
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax)
        ae.add_supported_context(Verification)
        address = ("127.0.0.1", options["port"])
        server = ae.start_server(address, block=False, evt_handlers=[(evt.EVT_C_STORE, _take)])
        while not stop.wait(1.0):
            pass
        server.shutdown()
