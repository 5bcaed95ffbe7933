"""A wide-area network on one machine: hosts that are network namespaces, and packets that take their time.

`WideNetwork` makes it and takes it down again; `Host` says what a host is like. It needs root, /dev/net/tun, and the
programs `ip` and `nsenter`; `why_not` tells what is missing.
"""

from benchmarks.wide.network import Host, WideNetwork, enter, why_not

__all__ = ["Host", "WideNetwork", "enter", "why_not"]
