"""What each route does, with the codecs of `greenroom.azure`; `target` says where a request goes."""
