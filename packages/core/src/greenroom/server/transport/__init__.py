"""Between the socket and the routes: TLS, slow clients, forms, the access log."""
