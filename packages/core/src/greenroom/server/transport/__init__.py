"""The layer between socket and routes: TLS, slow clients, multipart bodies, the access log."""
