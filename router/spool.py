"""The spool: objects on their way in, durable before anyone is told Success.

One folder an association below `inbox/`, named by our id. It holds `association.json` (who sent,
written and synced before the first object can be acknowledged), one `<receipt>.<sha256>.dcm` an
acknowledged object and one `<receipt>.part` an object still arriving. A folder belongs to one live
process; the folders of dead processes are adopted by others, which is how nothing acknowledged
gets lost. The inbox is the write-ahead log of the index.

It refuses to know the database, and to use anything received as part of a path.
"""

import errno

type Origin = str
FACTS = "association.json"
END = "association_end.json"
OBJECT_SUFFIX = ".dcm"
PART_SUFFIX = ".part"
# An object's dirty pages are pushed out on the way, so that the last fsync stays short.
FLUSH_EVERY = 128 << 20
STALE_AFTER = 3600.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
