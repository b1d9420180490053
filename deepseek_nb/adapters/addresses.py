"""Where requests may go: addresses that are refused, the environment's proxy, the certificates."""

from __future__ import annotations

import base64
import ipaddress
import logging
import re
import ssl
import urllib.request
from functools import cache

import httpx

from deepseek_nb.core.errors import ConfigError

__all__ = ["CHECK_URL", "checked_url", "environment_proxy", "host_and_port", "proxy_of", "say_once", "tls_of"]

LOG = logging.getLogger("deepseek_nb")

CHECK_URL = "Check base_url: for DeepSeek it is https://api.deepseek.com"
"""What to do about an address that does not serve."""

METADATA_HOSTS = frozenset(
    {
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # AWS; the IPv4 ones are link-local
        "fd20:ce::254",  # Google
        "instance-data",  # AWS
        "instance-data.ec2.internal",
        "metadata",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.tencentyun.com",
    }
)


def checked_url(base_url: str, *, with_auth: bool) -> httpx.URL:
    """Read ``base_url``; ConfigError (not repeating it: it may hold a password) where none may be sent to."""
    try:
        url = httpx.URL(base_url)
        host = url.raw_host.decode("ascii").rstrip(".")
    except (httpx.InvalidURL, TypeError, UnicodeError):
        url, host = httpx.URL(""), ""
    if url.scheme not in ("http", "https") or not host:
        raise ConfigError("base_url is not a web address.", hint=CHECK_URL)
    if url.userinfo or url.query or url.fragment or "?" in base_url or "#" in base_url:
        raise ConfigError(
            f"base_url for {host} holds more than an address.", hint="Leave out user, password, ? and #."
        )
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", host):
            raise ConfigError("base_url names no host.", hint=CHECK_URL) from None
        last = host.rpartition(".")[2].lower()
        if last.isdigit() or last.startswith("0x"):  # 2130706433, 0x7f.1, 127.1: numbers in disguise
            raise ConfigError(
                f"base_url names a host by an odd number ({host}).", hint="Write it as a.b.c.d"
            ) from None
        loopback = host.lower() == "localhost"
        bad = False
    else:
        ip = _inner_ip(ip)
        loopback = ip.is_loopback
        bad = ip.is_link_local or ip.is_multicast or ip.is_unspecified or str(ip) in METADATA_HOSTS
    if bad or host.lower() in METADATA_HOSTS:
        raise ConfigError(
            f"base_url leads to {host}, a link-local or metadata address.", hint="Use the server's own."
        )
    if url.scheme == "http" and with_auth and not loopback:
        raise ConfigError(f"base_url for {host} is http: the key would travel in clear.", hint="Use https.")
    return url


IP = ipaddress.IPv4Address | ipaddress.IPv6Address


def _inner_ip(ip: IP) -> IP:
    """The IPv4 address that an IPv6 address stands for, or the address itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in ipaddress.ip_network("64:ff9b::/96") or (0xFFFF < int(ip) <= 0xFFFFFFFF):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def _this_machine(host: str) -> bool:
    host = host.rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return _inner_ip(ipaddress.ip_address(host)).is_loopback
    except ValueError:
        return False


def proxy_of(base_url: str) -> str | None:
    """Host and port of the proxy that requests to ``base_url`` would go through, or None. Sends nothing.

    >>> proxy_of("http://127.0.0.1:8000") is None
    True
    """
    try:
        return host_and_port(environment_proxy(httpx.URL(base_url)))
    except (ConfigError, httpx.InvalidURL, TypeError):
        return None


def host_and_port(proxy: httpx.Proxy | None) -> str | None:
    """A proxy as it may be shown: without its user and password."""
    if proxy is None:
        return None
    return f"{proxy.url.host}:{proxy.url.port or (443 if proxy.url.scheme == 'https' else 80)}"


@cache
def say_once(origin: str, proxy: str) -> None:
    """A proxy sees who asks whom, and may sign anew: it is named once, in the log of ``deepseek_nb``."""
    LOG.info("Requests to %s go through the proxy %s, as the environment sets it.", origin, proxy)


def environment_proxy(url: httpx.URL) -> httpx.Proxy | None:
    """Find the proxy the environment sets for ``url``; none for this machine, which no proxy can reach."""
    if _this_machine(url.host):
        return None
    known = urllib.request.getproxies()
    address = known.get(url.scheme) or known.get("all")
    if not address or urllib.request.proxy_bypass(url.netloc.decode("ascii")):
        return None
    try:
        where = httpx.URL(address if "://" in address else f"http://{address}")
    except httpx.InvalidURL:
        where = httpx.URL("")
    if where.scheme not in ("http", "https") or not where.host:
        raise ConfigError(
            f"The proxy the environment sets for {url.host} cannot be used: only http and https proxies can.",
            hint=f"Set {url.scheme.upper()}_PROXY to http://host:port, or NO_PROXY={url.host} to go without.",
        )
    if not where.userinfo:
        return httpx.Proxy(where)
    # as a header: the class aiohttp takes a user and password in warns that it will be removed
    word = base64.b64encode(f"{where.username}:{where.password}".encode()).decode()
    bare = where.copy_with(username=None, password=None)
    return httpx.Proxy(bare, headers={"Proxy-Authorization": f"Basic {word}"})


def tls_of(url: httpx.URL, proxy: httpx.Proxy | None, *, trust_env: bool) -> ssl.SSLContext:
    """What certificates are checked against. Raises ConfigError where that cannot be read."""
    if url.scheme == "http" and not (proxy and proxy.url.scheme == "https"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used, trusts nobody, costs nothing
    try:
        return httpx.create_ssl_context(trust_env=trust_env)
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        raise ConfigError(
            f"The CA certificates cannot be read: {why}.", hint="Check SSL_CERT_FILE and SSL_CERT_DIR."
        ) from None
