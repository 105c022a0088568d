"""The Model Context Protocol over a pool: Azure's tools and Greenroom's own, without a dependency.

`protocol` has the messages and the rules of each version, `endpoint` handles requests, `stdio` and `http` are the two
transports (the server's routes send what `http` decides). Private.
"""
