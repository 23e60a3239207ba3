"""Services that speak STOW-RS each a little differently: the shape of their address, their limits,
and what their own Failure Reasons mean. Data only; the Standard's reasons are in `outcomes`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from router.destinations.outcomes import Outcome, Overrides

GIB = 1 << 30
DUPLICATE = 0x0111
"""PS3.7 C.5.6: a SOP Instance of this UID is there already."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One such service. `already` are the reasons that say that the UID is known; `outcomes` go
    before the outcome table and after the destination's own; `scope` is the usual OAuth scope."""

    label: str
    url: re.Pattern[str]
    example: str
    most_bytes: int = 4 * GIB
    already: frozenset[int] = frozenset({DUPLICATE})
    outcomes: Overrides = field(default_factory=dict)
    scope: str = ""


_NAME = r"[A-Za-z0-9][A-Za-z0-9._~-]{0,127}"

PRESETS: Mapping[str, Preset] = {
    "standard": Preset(
        label="PS3.18",
        url=re.compile(r"https?://[^?]+\Z"),
        example="https://pacs.example/dicom-web",
    ),
    "azure": Preset(
        label="Azure Health Data Services",
        url=re.compile(
            r"https://[a-z0-9-]+\.dicom\.azurehealthcareapis\.(?:com|us|cn)"
            rf"/v\d+(?:/partitions/{_NAME})?\Z"
        ),
        example="https://WORKSPACE-SERVICE.dicom.azurehealthcareapis.com/v2",
        most_bytes=2 * GIB,
        already=frozenset({DUPLICATE, 45070}),
        # 45071: another request is storing the same instance, or one before left traces.
        outcomes={f"{45071:04X}": Outcome.RETRY},
        scope="https://dicom.healthcareapis.azure.com/.default",
    ),
    "google": Preset(
        label="Google Cloud Healthcare API",
        url=re.compile(
            r"https://healthcare(?:\.[a-z0-9-]+\.rep)?\.googleapis\.com/v1(?:beta1)?"
            rf"/projects/{_NAME}/locations/{_NAME}/datasets/{_NAME}/dicomStores/{_NAME}/dicomWeb\Z"
        ),
        example=(
            "https://healthcare.googleapis.com/v1/projects/P/locations/L/datasets/D/dicomStores/S"
            "/dicomWeb"
        ),
        scope="https://www.googleapis.com/auth/cloud-healthcare",
    ),
    "aws": Preset(
        label="AWS HealthImaging",
        url=re.compile(
            r"https://dicom-medical-imaging(?:-fips)?\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?"
            r"/datastore/[0-9a-z]{32}\Z"
        ),
        example="https://dicom-medical-imaging.REGION.amazonaws.com/datastore/DATASTORE-ID",
        most_bytes=GIB - (1 << 20),
    ),
}
