"""`/v1/files`. Source: https://platform.openai.com/docs/api-reference/files.

A file is read and screened before the answer; what is kept, and what `content` gives back, is its text.
"""

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse

from rag.api.parts import as_list, owner_of, page_of, parts_of
from tidegate.errors import BodyTooLarge, ClientGone, InvalidRequest, NotFound, UnsupportedMediaType
from tidegate.serving.door import caller_of
from tidegate.serving.http import unless_gone
from tidegate.store import documents
from tidegate.store.documents import Row

router = APIRouter(prefix="/v1/files")
_FORM_BYTES = 16_384


@router.post("", response_model=None)
async def upload(request: Request) -> dict[str, Any]:
    """Takes a file in; bytes are held in memory only until they are read."""
    parts = parts_of(request)
    declared = request.headers.get("content-length", "")
    if not declared.isdigit():
        raise InvalidRequest("Send the file with a content-length.")
    if int(declared) > parts.max_file_bytes + _FORM_BYTES:
        raise BodyTooLarge(f"The file has more than the {parts.max_file_bytes} bytes allowed.")
    owner = owner_of(request)
    with parts.uploads.admit(owner, int(declared)):
        filename, purpose, data = await _form(request)
        if len(data) > parts.max_file_bytes:
            raise BodyTooLarge(f"The file has more than the {parts.max_file_bytes} bytes allowed.")
        policy = await parts.policies.named(caller_of(request).policy)
        shelf = parts.indexes.shelf(owner)
        return show_file(await unless_gone(request, parts.intake.take(shelf, policy, filename, purpose, data)))


@router.get("", response_model=None)
async def list_files(request: Request) -> dict[str, Any]:
    """The project's files."""
    page = page_of(request)
    async with parts_of(request).database.transaction() as connection:
        rows = await documents.list_files(connection, owner_of(request), page, request.query_params.get("purpose"))
    return as_list(rows, page, show_file)


@router.get("/{file_id}", response_model=None)
async def retrieve(request: Request, file_id: str) -> dict[str, Any]:
    """One file."""
    return show_file(await find_file(request, file_id))


@router.delete("/{file_id}", response_model=None)
async def delete(request: Request, file_id: str) -> dict[str, Any]:
    """Deletes a file, also from every store: no search finds it from here on."""
    parts, owner = parts_of(request), owner_of(request)
    async with parts.database.transaction() as connection:
        if not await documents.delete_file(connection, owner, file_id):
            raise no_file(file_id)
    await asyncio.to_thread(parts.indexes.shelf(owner).delete_document, file_id)
    parts.jobs.wake(owner)
    return {"id": file_id, "object": "file", "deleted": True}


@router.get("/{file_id}/content", response_model=None)
async def content(request: Request, file_id: str) -> PlainTextResponse:
    """The text that was read, into which citations point."""
    await find_file(request, file_id)
    return PlainTextResponse(await text_of(request, file_id))


async def text_of(request: Request, file_id: str) -> str:
    """The text of a file that has been found.

    Raises:
        NotFound: it was deleted meanwhile.
    """
    shelf = parts_of(request).indexes.shelf(owner_of(request))
    try:
        return (await asyncio.to_thread(shelf.document, file_id)).text
    except FileNotFoundError as error:
        raise no_file(file_id) from error


async def find_file(request: Request, file_id: str) -> Row:
    """The file's row.

    Raises:
        NotFound: the project has no such file.
    """
    async with parts_of(request).database.transaction() as connection:
        row = await documents.get_file(connection, owner_of(request), file_id)
    if row is None:
        raise no_file(file_id)
    return row


def no_file(file_id: str) -> NotFound:
    """The error for a file that is not there."""
    return NotFound(f"There is no file {file_id[:64]!r} in this project.", param="file_id")


def show_file(row: Row) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": row["file_id"],
        "object": "file",
        "bytes": row["bytes"],
        "created_at": int(row["created_at"]),
        "filename": row["filename"],
        "purpose": row["purpose"],
        "status": "processed",
        "expires_at": None,
        "status_details": None,
    }


async def _form(request: Request) -> tuple[str, str, bytes]:
    """File name, purpose and bytes of the form.

    Raises:
        InvalidRequest: another form.
    """
    parts = parts_of(request)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise UnsupportedMediaType("Send the file as multipart/form-data.")
    parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=8)
    parser.spool_max_size = parts.max_file_bytes + _FORM_BYTES  # in memory: nothing unread touches a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(f"The form cannot be read: {error.message}") from error
    except ClientDisconnect as error:
        raise ClientGone("the caller hung up before the form was complete") from error
    try:
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, UploadFile) or not isinstance(purpose, str):
            raise InvalidRequest("Send a form with the parts `file` and `purpose`.", param="file")
        if any(str(name).startswith("expires_after") for name in form):
            raise InvalidRequest("`expires_after` is not offered yet. Leave it out.", param="expires_after")
        return file.filename or "", purpose, await file.read()
    finally:
        await form.close()
