"""Memory that connections leave behind: collected, and given back to the system.

A flood of connections in many threads leaves free memory scattered over the allocator's arenas,
where it stays. It refuses to know what used it.
"""

import ctypes
import gc


def give_back() -> None:
    """Collect rings of references (an association of pynetdicom is one), then trim the heap.

    Where the C library cannot trim (it is not glibc), collecting has to do.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
