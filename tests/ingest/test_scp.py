"""Real associations with the receiver: what it takes, what it answers, what it leaves on disk."""

from tests.receivers import CT, EXPLICIT_LITTLE, Running, make_object
from tests.senders import VERIFICATION, IMPLICIT_LITTLE, RawAssociation


def test_echo_and_store(running: Running) -> None:
    item = make_object()
    with RawAssociation(
        "127.0.0.1",
        running.port,
        contexts=[(VERIFICATION, [IMPLICIT_LITTLE]), (CT, [EXPLICIT_LITTLE])],
    ) as assoc:
        assert assoc.echo() == 0
        assert assoc.store(item) == (0, "")
    running.intake.wait_closed()
    assert running.intake.closed[0][1] == "released"
    (spooled,) = running.intake.objects
    assert running.data(spooled) == item.data
