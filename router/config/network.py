"""Texts of the network in the configuration: AE titles of callers, addresses, networks."""

import ipaddress

_TITLE_LENGTH = 16


def caller_title(text: str) -> str:
    """Return an AE title (PS3.5 6.2, VR AE), exact or with `*` and `?`, without outer spaces.

    Raises:
        ValueError: it is none.
    """
    title = text.strip(" ")
    printable = all(" " <= character <= "~" and character != "\\" for character in title)
    if not 1 <= len(title) <= _TITLE_LENGTH or not printable:
        raise ValueError(
            f"{text!r} is no AE title; 1 to 16 printable ASCII characters without a backslash "
            "are expected"
        )
    return title


def host(text: str) -> str:
    """Return an address or network (CIDR) in canonical form.

    Raises:
        ValueError: it is neither.
    """
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{text!r} is no address and no network such as 10.1.0.0/16") from error
    if "/" in text and network.network_address != ipaddress.ip_address(text.partition("/")[0]):
        raise ValueError(f"'{text}' has bits behind its prefix; expected {network}")
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if single else str(network)
