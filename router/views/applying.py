"""Apply the plan of a change that was seen and pressed, and say what became of it."""

from django.contrib import messages
from django.http import HttpRequest

from router.config.findings import ConfigError
from router.services import access, config, editing

NO_NAME = "A name of 1 to 64 of A-Z a-z 0-9 _ - is expected."


def apply(request: HttpRequest, plan: editing.Plan, *, done: str) -> None:
    """Apply a plan; `done` says what was done, without the end of the sentence."""
    reason = request.POST.get("reason", "").strip()
    try:
        revision = editing.apply(plan, actor=access.actor(request), reason=reason)
    except config.PublishError:
        messages.warning(
            request, f"{done}, but the receiver's file of sources could not be written: look at "
            "the disk of the data directory."
        )  # fmt: skip
    except (config.ConfigBusyError, ConfigError) as error:
        messages.error(request, f"Nothing was changed. {error}")
    else:
        number = f" as revision {revision.number}" if revision else "; nothing differed"
        messages.success(request, f"{done}{number}.")


def words(error: ConfigError) -> tuple[str, ...]:
    """Return the findings as sentences."""
    return tuple(
        f"{one.path}: {one.message}" if one.path else one.message for one in error.findings
    )
