"""Which rows a person may see: the one place where a user's limit becomes a filter.

What lies outside is absent, not forbidden: pages answer 404. Whether patient data is shown is
decided here as well. Refuses to decide what a person may do; that is ``services.access``.
"""

from django.db.models import Exists, OuterRef, QuerySet

from router.models import (
    Association,
    AuditEvent,
    HourCount,
    Instance,
    Job,
    JobItem,
    Permission,
    Series,
    Study,
    User,
)
from router.models.jobs import JobItemQuerySet
from router.models.studies import InstanceQuerySet, StudyQuerySet
from router.services import users


def sees_patients(user: User) -> bool:
    """Tell whether names, patient ids and birth dates are shown to ``user``."""
    return users.holds(user, Permission.SEE_STUDIES)


def visible_studies(user: User) -> StudyQuerySet:
    """Return the studies within the user's limit of sources, modalities and institutions."""
    studies = Study.objects.visible()
    limits = user.limits()
    if "sources" in limits:
        studies = studies.filter(source__in=limits["sources"])
    if "institutions" in limits:
        studies = studies.filter(institution_name__in=limits["institutions"])
    if "modalities" in limits:
        inside = Series.objects.filter(study=OuterRef("pk"), modality__in=limits["modalities"])
        studies = studies.filter(Exists(inside))
    return studies


def visible_series(user: User, study: Study) -> QuerySet[Series]:
    """Return the series of a visible study that the user's limit of modalities leaves."""
    series = Series.objects.filter(study=study)
    limits = user.limits()
    return series.filter(modality__in=limits["modalities"]) if "modalities" in limits else series


def visible_instances(user: User) -> InstanceQuerySet:
    """Return the objects within the user's limit."""
    instances = Instance.objects.all()
    limits = user.limits()
    if limits:
        instances = instances.filter(study__in=visible_studies(user))
    if "modalities" in limits:
        instances = instances.filter(series__modality__in=limits["modalities"])
    return instances


def visible_jobs(user: User) -> QuerySet[Job]:
    """Return the jobs of visible studies."""
    jobs = Job.objects.all()
    return jobs.filter(study__in=visible_studies(user)) if user.limits() else jobs


def visible_items(user: User) -> JobItemQuerySet:
    """Return the items of objects within the user's limit."""
    items = JobItem.objects.all()
    return items.filter(instance__in=visible_instances(user)) if user.limits() else items


def visible_associations(user: User) -> QuerySet[Association]:
    """Return the associations of the sources within the user's limit."""
    limits = user.limits()
    associations = Association.objects.all()
    return (
        associations.filter(source__in=limits["sources"]) if "sources" in limits else associations
    )


def visible_counts(user: User) -> QuerySet[HourCount]:
    """Return the counts by hour within the user's sources and modalities.

    Counts are not kept by institution, so a limit of institutions leaves none.
    """
    counts = HourCount.objects.all()
    limits = user.limits()
    if "institutions" in limits:
        return counts.none()
    if "sources" in limits:
        counts = counts.filter(source__in=limits["sources"])
    if "modalities" in limits:
        counts = counts.filter(modality__in=limits["modalities"])
    return counts


def visible_events(user: User) -> QuerySet[AuditEvent]:
    """Return the audit events a user may read: all for those who run the system, else their own."""
    events = AuditEvent.objects.all()
    runs_it = users.holds(user, Permission.SEE_HEALTH) and not user.limits()
    return events if runs_it else events.filter(actor=user.get_username(), actor_kind="user")
