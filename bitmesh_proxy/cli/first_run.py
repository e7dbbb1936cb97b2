"""The first start: an account, a key, and examples that work when pasted into another terminal."""

from __future__ import annotations

import asyncio
import logging
import shlex
import shutil
import sys
from pathlib import Path

import click
from aiohttp import web

from bitmesh_proxy import keys
from bitmesh_proxy.cli.main import drop_output
from bitmesh_proxy.cli.new_key import NewKey, create_key
from bitmesh_proxy.money import format_usd, parse_usd
from bitmesh_proxy.settings import resolve_data_dir
from bitmesh_proxy.storage.accounts import AccountStore

log = logging.getLogger(__name__)

FIRST_CREDIT = parse_usd("10")
PROGRAM = "bitmesh-proxy"


async def welcome(app: web.Application, address: str) -> None:
    """Say where the service is; in the sandbox, on a database without accounts, make the first account and key.

    Where standard output takes nothing (a full disk, a reader that has gone), the log says so, and no key is made.
    """
    mode = "sandbox: the providers are played on this machine, nothing is sent out" if app[keys.IS_SANDBOX] else "live"
    if not await _say(f"bitmesh-proxy listens on {address} ({mode})."):
        return
    accounts = AccountStore(app[keys.DATABASE])
    command = command_line(sys.argv[0], resolve_data_dir(app[keys.SETTINGS], app[keys.ENVIRON]))
    if await accounts.list():
        await _say(f"Keys: `{command} key list`, a new one: `{command} key create`.")
        return
    if not app[keys.IS_SANDBOX] or app[keys.ENVIRON].get("JOURNAL_STREAM"):  # a journal is no place for secrets
        await _say(
            f"There is no account yet: `{command} account create NAME --credit 10`, then `{command} key create`."
        )
        return
    account = await accounts.create("default")
    await accounts.credit(account.id, FIRST_CREDIT, "play money of the sandbox")
    key = await create_key(app[keys.DATABASE], app[keys.SETTINGS], account_id=account.id, name="first")
    if not await _say(_introduce(key, address)):
        log.warning("a first key was made and could not be shown: `%s key create` makes another", command)


async def _say(text: str) -> bool:
    """Whether it could be said. If not, nothing ever is, so that the end of the program is not spoilt."""
    try:
        click.echo(text)
    except OSError as exc:
        log.warning("standard output takes nothing: %s", exc.strerror or exc)
        await asyncio.to_thread(drop_output)
        return False
    return True


def command_line(program: str, data_dir: Path) -> str:
    """How commands for these data begin, in a terminal elsewhere. ``program`` is what was started: a clone's own is not
    the one that a shell finds, if it finds one."""
    path = Path(program)
    found = shutil.which(PROGRAM)
    is_found = path.name != PROGRAM or (found is not None and path.exists() and path.samefile(found))
    return shlex.join([PROGRAM if is_found else str(path.absolute()), "--data-dir", str(data_dir.absolute())])


def _introduce(key: NewKey, address: str) -> str:
    return f"""
A first account ("default", {format_usd(FIRST_CREDIT)} USD of play money) and its key were made.
The secrets are shown this once:

  bearer token     {key.token}
  consumer key     {key.consumer_key}
  consumer secret  {key.consumer_secret}

Try it from another terminal:

# a chat, streamed
{chat_example(address, key.token)}

# a picture; open the url in the answer
{image_example(address, key.token)}

# a clip: hand it in, wait, look at it; open the video_url in the answer
{video_example(address, key.token)}

Stop with Ctrl-C.
"""


def _curl(address: str, path: str, token: str, body: str, *, options: str = "-sS") -> str:
    return (
        f"curl {options} {address}{path} -H 'Authorization: Bearer {token}' "
        f"-H 'Content-Type: application/json' \\\n  -d '{body}'"
    )


def chat_example(address: str, token: str) -> str:
    """A streamed chat."""
    body = '{"model":"openai/gpt-oss-120b","messages":[{"role":"user","content":"What is a gateway?"}],"stream":true}'
    return _curl(address, "/chat", token, body, options="-sSN")


def image_example(address: str, token: str) -> str:
    """A picture."""
    body = '{"model":"black-forest-labs/FLUX-2-dev","prompt":"A lantern on a river stone","width":768,"height":512}'
    return _curl(address, "/image", token, body)


def video_example(address: str, token: str) -> str:
    """A clip, with the wait for it."""
    body = '{"model":"minimax/video-01-director","prompt":"A cat playing with yarn"}'
    submit = _curl(address, "/video", token, body)
    return (
        f'ID=$({submit} | sed -E \'s/^.*"id":"([^"]+)".*$/\\1/\'); sleep 10\n'
        f"curl -sS {address}/video/$ID -H 'Authorization: Bearer {token}'"
    )
