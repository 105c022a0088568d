"""The operations, with the codecs of `greenroom.azure`; `target` finds the pool and the contract of a request."""
