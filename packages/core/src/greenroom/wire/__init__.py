"""Version `greenroom/1` of the HTTP API: values, errors, executions and files as bytes, without I/O.

Only our client and our server use it. Azure's contracts are in `greenroom.azure.codecs`.
"""

VERSION = "greenroom/1"
VERSIONS_HEADER = "x-greenroom-versions"
"""In the response to `GET greenroom`: the versions that the server supports, separated by commas."""
TYPE_HEADER = "x-greenroom-container-type"
"""In the same response: the container type of the pool."""
SIZE_HEADER = "x-greenroom-size"
"""The header of a response with the expected bytes of the file in it, for clients that show progress."""
OVERRIDES_HEADER = "x-greenroom-overrides"
"""In a request: the settings of its session that differ from the pool's, as JSON."""
STREAM_TYPE = "application/x-ndjson"
"""The media type of an execution."""
CONTENT_TYPE = "application/x-greenroom-content"
"""The media type of a downloaded file."""
