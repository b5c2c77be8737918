"""The relay: takes sealed requests and brings them to one gateway, without a word about who sent them.

In earnest a relay is run by somebody else than the gateway, with a web server that is made for it:
`nginx_configuration` says how. `Relay` does the same in a few lines, for trials on one machine.
"""

from sdk.device.oblivious.encapsulation import REQUEST_TYPE, RESPONSE_TYPE
from sdk.device.oblivious.key_configurations import GATEWAY_PATH, MAX_COLLECTION_BYTES, MEDIA_TYPE
from sdk.device.oblivious.service import Incoming, Outgoing
from sdk.device.oblivious.wire import Address, Deadline, exchange
from sdk.errors import CloudError

__all__ = ["KEYS_PATH", "Relay", "nginx_configuration"]

KEYS_PATH = "/keys"
MAX_ANSWER_BYTES = 8 * 1024 * 1024


class Relay:
    """Passes on; a `service.Service` around `handle` makes it a server."""

    def __init__(self, gateway: str, *, seconds: float = 70.0) -> None:
        """Nothing is asked yet.

        Args:
            gateway: Address of the gateway, without its path.
            seconds: For an answer of the gateway.

        Raises:
            CloudError: It is no address.
        """
        self._gateway, self._seconds = Address.of(gateway, "gateway"), seconds

    def handle(self, incoming: Incoming) -> Outgoing:
        """Bring one sealed request to the gateway, or fetch its keys."""
        if incoming.method == "GET" and incoming.path == KEYS_PATH:
            return self._brought("GET", b"", {"Accept": MEDIA_TYPE}, MAX_COLLECTION_BYTES)
        if incoming.method != "POST" or incoming.path != "/":
            return Outgoing(status=404, content=b"not here\n")
        if incoming.media_type != REQUEST_TYPE:
            return Outgoing(status=415, content=f"send {REQUEST_TYPE}\n".encode())
        headers = {"Content-Type": REQUEST_TYPE, "Accept": RESPONSE_TYPE}
        return self._brought("POST", incoming.content, headers, MAX_ANSWER_BYTES)

    def _brought(self, method: str, content: bytes, headers: dict[str, str], limit: int) -> Outgoing:
        deadline = Deadline(self._seconds)
        try:
            reply = exchange(
                method, self._gateway, self._gateway.path + GATEWAY_PATH,
                headers=headers, content=content, deadline=deadline, limit=limit,
            )  # fmt: skip
        except CloudError:
            return Outgoing(status=502, content=b"the gateway does not answer\n")
        return Outgoing(status=reply.status, media_type=reply.media_type or "text/plain", content=reply.content)


def nginx_configuration(gateway: str, *, listen: str = "443 ssl") -> str:
    """The two locations of an nginx server that is a relay.

    Args:
        gateway: Address of the gateway, without its path.
        listen: What nginx listens on.

    Raises:
        CloudError: It is no address.
    """
    address = Address.of(gateway, "gateway")
    upstream = f"{address.scheme}://{address.authority}{address.path}{GATEWAY_PATH}"
    return NGINX.format(listen=listen, upstream=upstream, request=REQUEST_TYPE, response=RESPONSE_TYPE, keys=MEDIA_TYPE)


NGINX = """\
server {{
    listen {listen};
    access_log off;                      # A list of who asked when is what a relay must not keep.
    error_log /dev/null crit;            # nginx writes addresses into its errors.
    server_tokens off;
    client_max_body_size 1m;
    client_body_timeout 15s;

    proxy_http_version 1.1;
    proxy_pass_request_headers off;      # Nothing of the client's: no address, browser, language or cookie.
    proxy_hide_header Set-Cookie;        # Nor anything of the gateway's that could mark a client.
    proxy_connect_timeout 5s;
    proxy_read_timeout 70s;
    proxy_next_upstream off;             # A request is never sent twice.
    proxy_ssl_server_name on;
    proxy_ssl_verify on;
    proxy_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;

    location = / {{
        limit_except POST {{ deny all; }}
        proxy_set_header Content-Type {request};
        proxy_set_header Accept {response};
        proxy_pass {upstream};
    }}
    location = /keys {{
        limit_except GET {{ deny all; }}
        proxy_set_header Accept {keys};
        proxy_pass {upstream};
    }}
}}
"""
