"""The kinds of destination by name. A new kind is one module with a `KIND` and one line here."""

from collections.abc import Mapping

from router.destinations import dicom, folder, s3, stow, webhook
from router.destinations.base import Kind

KINDS: Mapping[str, Kind] = {
    kind.name: kind for kind in (dicom.KIND, folder.KIND, s3.KIND, stow.KIND, webhook.KIND)
}
