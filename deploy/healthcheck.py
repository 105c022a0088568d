"""Ends with 0 if the server in this container answers, over TLS or without. The certificate is that of another name."""

import ssl
import sys
import urllib.request

context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for scheme in ("https", "http"):
    try:
        address = f"{scheme}://127.0.0.1:8080/healthz"
        with urllib.request.urlopen(address, timeout=4, context=context) as response:  # noqa: S310  of this server
            sys.exit(response.status != 200)
    except OSError:
        continue
sys.exit(1)
