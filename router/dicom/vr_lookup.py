"""The VR of an element by the dictionaries (PS3.6), remembered.

Refuses to know data sets: a tag, and for private ones its creator, is all it looks at.
"""

from functools import lru_cache

from pydicom.datadict import dictionary_VR, private_dictionary_VR


@lru_cache(maxsize=4096)
def public(tag: int) -> str:
    """VR of a public element; UN when the dictionary has none."""
    if tag & 0xFFFF == 0:
        return "UL"
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UN"


@lru_cache(maxsize=4096)
def private(tag: int, creator: str) -> str:
    """VR of a private element; UN when nobody knows its creator."""
    try:
        return str(private_dictionary_VR(tag, creator))
    except KeyError:
        return "UN"
