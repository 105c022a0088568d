"""Ends with 0 if the server in this container answers, over TLS or without. The certificate is that of another name."""

import ssl
import sys
import urllib.request

for scheme in ("https", "http"):
    try:
        address = f"{scheme}://127.0.0.1:8080/healthz"
        context = ssl._create_unverified_context() if scheme == "https" else None
        with urllib.request.urlopen(address, timeout=4, context=context) as response:
            sys.exit(response.status != 200)
    except OSError:
        continue
sys.exit(1)
