"""``grpc.reflection``: what is served, for tools that have no .proto files.

Room:      peer.services   (imports fabric_protos.descriptors; used by introspection)
Loop:      Trio
Lifetime:  peer

Both versions of the service are the same on the wire.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from fabric_protos.codec import encode
from fabric_protos.descriptors import FILES
from fabric_protos.grpc.reflection.v1 import (
    ErrorResponse,
    ExtensionNumberResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)
from peer.errors import Code
from peer.services.api import SMALL, Caller, Method, Requests, Send, Streaming, decoder

FILE_OF = {name: path for path, file in FILES.items() for name in file.declares}
VERSIONS = ("v1", "v1alpha")


def methods(services: Collection[str]) -> Sequence[Method]:
    """Return the methods of both services.

    Args:
        services: full names of what is served.
    """

    async def info(requests: Requests, send: Send, _: Caller) -> None:
        async for request in requests:
            response = _response(request, services)
            response.valid_host, response.original_request = request.host, request
            await send(response)

    return [
        Streaming(
            path=f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            decode=decoder(ServerReflectionRequest),
            call=info,
            encode=encode,
            max_request=SMALL,
        )
        for version in VERSIONS
    ]


def _response(
    request: ServerReflectionRequest, services: Collection[str]
) -> ServerReflectionResponse:
    if request.list_services is not None:
        names = [ServiceResponse(name=name) for name in sorted(services)]
        return ServerReflectionResponse(list_services_response=ListServiceResponse(service=names))
    if request.file_by_filename is not None:
        return _files(request.file_by_filename)
    if request.file_containing_symbol is not None:
        return _files(FILE_OF.get(request.file_containing_symbol, ""))
    wanted = request.all_extension_numbers_of_type
    if wanted is not None and wanted in FILE_OF:  # proto3 has no extensions
        numbers = ExtensionNumberResponse(base_type_name=wanted)
        return ServerReflectionResponse(all_extension_numbers_response=numbers)
    return _not_found()


def _files(path: str) -> ServerReflectionResponse:
    if path not in FILES:
        return _not_found()
    descriptors = [FILES[each].descriptor() for each in dict.fromkeys(_with_imports(path))]
    found = FileDescriptorResponse(file_descriptor_proto=descriptors)
    return ServerReflectionResponse(file_descriptor_response=found)


def _with_imports(path: str) -> Iterator[str]:
    yield path
    for imported in FILES[path].imports:
        yield from _with_imports(imported)


def _not_found() -> ServerReflectionResponse:
    error = ErrorResponse(error_code=Code.NOT_FOUND, error_message="not found")
    return ServerReflectionResponse(error_response=error)
