"""Every address of the product. A view without a mark of access is refused by the middleware."""

from django.urls import URLPattern, URLResolver, path

from router.views import (
    administration,
    configuration,
    dashboard,
    health,
    jobs,
    quarantine,
    session,
    studies,
)

urlpatterns: list[URLPattern | URLResolver] = [
    path("", dashboard.dashboard, name="dashboard"),
    path("login/", session.sign_in, name="login"),
    path("logout/", session.sign_out, name="logout"),
    path("password/", session.password, name="password"),
    path("theme/", session.theme, name="theme"),
    path("studies/", studies.studies, name="studies"),
    path("studies/search/", studies.search, name="study-search"),
    path("studies/newer/", studies.newer, name="studies-newer"),
    path("studies/<int:pk>/", studies.study, name="study"),
    path("studies/<int:pk>/route/", studies.route_again, name="study-route"),
    path("jobs/", jobs.listing, name="jobs"),
    path("jobs/confirm/", jobs.confirm, name="jobs-confirm"),
    path("jobs/apply/", jobs.apply, name="jobs-apply"),
    path("jobs/<int:pk>/", jobs.job, name="job"),
    path("quarantine/", quarantine.waiting, name="quarantine"),
    path("quarantine/<int:pk>/release/", quarantine.release, name="quarantine-release"),
    path("quarantine/<int:pk>/discard/", quarantine.discard, name="quarantine-discard"),
    path("rules/", configuration.rules, name="rules"),
    path("destinations/", configuration.destinations, name="destinations"),
    path("destinations/<slug:name>/", configuration.destination, name="destination"),
    path("destinations/<slug:name>/verify/", configuration.verify, name="destination-verify"),
    path("destinations/<slug:name>/resume/", configuration.resume, name="destination-resume"),
    path("destinations/<slug:name>/pause/", configuration.pause, name="destination-pause"),
    path("sources/", configuration.sources, name="sources"),
    path("revisions/", configuration.revisions, name="revisions"),
    path("revisions/<int:number>/", configuration.revision, name="revision"),
    path("audit/", administration.audit_log, name="audit"),
    path("users/", administration.users, name="users"),
    path("system/", administration.system, name="system"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", health.figures, name="metrics"),
]
