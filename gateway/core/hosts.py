"""What can be said of a host by its name or address alone."""

from ipaddress import ip_address


def is_this_one(host: str) -> bool:
    """Whether it is the loopback's: nobody on the way to it. Of another name only DNS could tell."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
